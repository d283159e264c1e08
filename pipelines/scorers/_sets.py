"""What the scorers of whole sets share: which pictures belong together, which can be scored, the encoder they use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders.base import Encoder
from studio.pipelines.encoders.clip import clip
from studio.pipelines.encoders.dino import dino
from studio.pipelines.encoders.embedded import embedded
from studio.pipelines.encoders.files import REVISION
from studio.pipelines.scorers.base import asked
from studio.pipelines.settings import Part

IDS = {"dino": ("facebook/dinov2-base", ""), "clip": ("openai/clip-vit-base-patch32", "")}  # at their pinned commits


class View(Part):
    """Whose features a set is described by."""

    family: Annotated[
        Literal["dino", "clip", "embedded", "traits"],
        Field(description="Kind of encoder; embedded, traits: the judges that come with the studio, for its own world"),
    ] = "dino"
    encoder: Annotated[str, Field(description="Folder or hub id of the encoder; empty: the usual one of its kind")] = ""
    revision: Annotated[str, Field(description=REVISION)] = ""

    def open(self, device: torch.device, dtype: torch.dtype) -> Encoder:
        """The encoder; no weights are read yet. Raises ModelError when the embedded judges are not there."""
        if self.family in ("embedded", "traits"):
            return embedded(device, self.family == "traits")
        make = dino if self.family == "dino" else clip
        return make(self.encoder or IDS[self.family][0], self.revision, device, dtype)


def by_prompt(prompts: Sequence[str], images: Tensor, scorer: str) -> list[list[int]]:
    """Rows of each prompt, in order of appearance. Raises DataError unless every picture has a prompt."""
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(asked(prompts, images, scorer)):
        rows.setdefault(prompt, []).append(row)
    return list(rows.values())


def finite(images: Tensor) -> Tensor:
    """`[B]` bool: the pictures without a value that is no number."""
    return images.flatten(1).isfinite().all(1)


def unscored(images: Tensor) -> Tensor:
    """`[B]` float32 NaN on the pictures' device, to be filled."""
    return torch.full((len(images),), torch.nan, device=images.device)
