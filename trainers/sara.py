"""SaRA: train only the weights that are next to zero, in place; all others stay as they are to the last bit.

Hu et al., ICLR 2025, arXiv 2409.06633. L = L_dreambooth + lambda_rank * |P * M|_*, the nuclear norm of the entries that
learn in one matrix, another one at every loss. At the share `progressive` of the steps, entries that have outgrown the
threshold stop learning and keep their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, model_validator
from typing_extensions import Self

from studio.pipelines.adapters import sara
from studio.pipelines.protocols import Backbone, Stream
from studio.trainers import dreambooth
from studio.trainers.base import Loss, Turn


class Config(dreambooth.Config):
    """SaRA's own settings."""

    lr: Annotated[
        float, Field(ge=0, le=10, description="Learning rate; 0: 0.001 exp(-350 threshold), as in the paper")
    ] = 0.0
    schedule: Annotated[str, Field(description="Learning-rate schedule, by diffusers' name")] = "cosine"
    lambda_rank: Annotated[
        float, Field(ge=0, description="Weight of the nuclear norm; for matrices with more than 64 rows and columns")
    ] = 5e-3
    progressive: Annotated[
        float, Field(ge=0, le=1, description="Share of the steps after which outgrown entries stop; 0: never")
    ] = 0.5
    adapter: Annotated[sara.Config, Field(description="Which weights learn")] = sara.Config()  # type: ignore[assignment]

    @model_validator(mode="after")
    def _whole_rate(self) -> Self:
        if self.optimizer == "prodigy" and not self.lr:
            raise ValueError("prodigy finds its own step size: set lr = 1")
        return self

    @model_validator(mode="after")
    def _whole_weights(self) -> Self:
        if self.quantize != "no":
            raise ValueError(f"quantize = '{self.quantize}': SaRA trains the weights themselves; leave it out")
        return self


def losses(config: Config, model: Backbone, adapter: sara.SaRA, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """DreamBooth's loss of each batch, and the nuclear norm of a matrix that is drawn by the batch's number."""
    memory.setdefault("steps", 0)
    last = round(config.progressive * config.steps)

    def then(numbers: Mapping[str, float]) -> Turn:
        """After a step: fixed entries back to the bit, and in the step that ends the first phase, which those are."""
        adapter.settle()
        memory["steps"] += 1
        if memory["steps"] == last:
            adapter.reselect()
        return Turn()

    for loss in dreambooth.losses(config, model, adapter, data, memory):
        norm = adapter.nuclear(data.position) if config.lambda_rank else None
        if norm is not None:
            numbers = {**loss.numbers, "nuclear": norm.detach()}
            loss = replace(loss, value=loss.value + config.lambda_rank * norm, numbers=numbers)
        yield replace(loss, then=then)
