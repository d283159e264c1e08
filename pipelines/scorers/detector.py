"""Detector: is an object of a class in the picture, by an object detector; it does not know the prompt.

form = soft: the logarithm of the summed odds of all boxes, without a threshold, so that its gradient never vanishes;
form = present: the probability of the best box where it reaches `threshold`, else 0, and then without a gradient.
With a negative weight (-1*detector(label=dog)) the object is to go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders.base import rows
from studio.pipelines.encoders.detector import Detector, detector
from studio.pipelines.encoders.files import REVISION
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.settings import Part

NUMBERS = ("detector",)
ASKED = {"detector": ("label", "dog")}
Form = Literal["soft", "present"]


class Config(Part):
    """Which detector, and what it looks for."""

    label: Annotated[str, Field(description="Class as the detector calls it, e.g. dog; empty: no number")] = ""
    form: Annotated[Form, Field(description="soft: log of the summed odds; present: best probability or 0")] = "soft"
    threshold: Annotated[float, Field(ge=0, lt=1, description="Least probability of a box for form = present")] = 0.2
    encoder: Annotated[
        str, Field(description="Object detector in transformers' layout (YOLOS, DETR, ...): a folder or a hub id")
    ] = "hustvl/yolos-tiny"
    revision: Annotated[str, Field(description=REVISION)] = ""


class Presence:
    """How surely a class is in the picture. NaN pictures are NaN; raises ModelError, and UsageError for its label."""

    differentiable = True

    def __init__(self, encoder: Detector, config: Config) -> None:
        self.encoder, self.config = encoder, config
        soft = config.form == "soft"
        number = "log of summed odds" if soft else f"best probability from {config.threshold:g} on"
        group = f"detector: {number} of {config.label}, {encoder.id}"
        bounds = None if soft else (0.0, 1.0)
        self.about = About("detector", encoder.id, encoder.preprocessing, group, bounds=bounds)

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` in 0..1."""
        return rows(list(images), lambda good: self.number(self.encoder.odds(good, self.config.label)))

    def number(self, odds: Tensor) -> Tensor:
        """`[B]` of the log-odds of all boxes `[B, Q]`."""
        if self.config.form == "soft":
            return odds.logsumexp(-1)
        best = odds.amax(-1).sigmoid()
        return torch.where(best >= self.config.threshold, best, 0.0)


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """detector, where there is something to look for. No weights are read before the first call."""
    encoder = detector(config.encoder, config.revision, device, dtype)
    return [Presence(encoder, config)] if config.label else []
