"""T-LoRA: DreamBooth from one or few pictures, with less rank at noisy timesteps so that layout is not copied.

Soboleva et al. 2025, arXiv 2507.05964. DreamBooth's loss; the adapter masks each sample, of subject and class alike, at
its own timestep. Untested by the authors on models of Stable Diffusion 1's size; on FLUX they use variant = "vanilla".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from studio.pipelines.adapters import tlora
from studio.pipelines.protocols import Backbone, Stream
from studio.trainers import dreambooth
from studio.trainers.base import Loss


class Config(dreambooth.Config):
    """DreamBooth's settings with T-LoRA's adapter; the authors give 800 steps to full T-LoRA and 500 to vanilla."""

    steps: Annotated[int, Field(ge=1, le=10**9, description="Optimizer steps")] = 800
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay; more of it undoes the orthogonal start")] = (
        1e-4
    )
    adapter: Annotated[tlora.Config, Field(description="What learns, and when")] = tlora.Config()  # type: ignore[assignment]


def losses(
    config: Config, model: Backbone, adapter: tlora.TLoRA, data: Stream, memory: dict[str, Any]
) -> Iterator[Loss]:
    """DreamBooth's losses, with the batch's mean active rank beside them."""
    for loss in dreambooth.losses(config, model, adapter, data, memory):
        ranks = adapter.masks.active
        yield loss if ranks is None else replace(loss, numbers={**loss.numbers, "rank": ranks.float().mean()})
