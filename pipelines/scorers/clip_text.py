"""CLIP-T: how well pictures fit their prompts, in both published conventions, kept apart.

clip-t is the cosine of picture and prompt (DreamBooth; usually 0.25 to 0.33). clip-score is 2.5 x max(cosine, 0)
(CLIPScore, Hessel et al. 2021, as Custom Diffusion computes it: without a prefix to the prompt; usually 0.6 to 0.8).
torchmetrics' CLIPScore is 100 x cosine, a third convention. Prompts should name the class, not the trigger.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders.clip import BASE, clip
from studio.pipelines.encoders.files import REVISION
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers.base import TextMatch
from studio.pipelines.settings import Part

FACTOR = 2.5
NUMBERS = ("clip-t", "clip-score")


class Config(Part):
    """Which CLIP. Published numbers of both conventions are ViT-B/32's."""

    encoder: Annotated[str, Field(description="CLIP in transformers' layout: a folder or a hub id")] = BASE
    revision: Annotated[str, Field(description=REVISION)] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """clip-t and clip-score. No weights are read before the first call."""
    encoder = clip(config.encoder, config.revision, device, dtype)

    def about(name: str, convention: str, bounds: tuple[float, float]) -> About:
        group = f"{name}: {convention}, {encoder.id}"
        return About(name, encoder.id, encoder.preprocessing, group, needs=("prompts",), bounds=bounds)

    return [
        TextMatch(about("clip-t", "cosine", (-1.0, 1.0)), encoder, lambda cosine: cosine),
        TextMatch(about("clip-score", "2.5 x max(cosine, 0)", (0.0, FACTOR)), encoder, score),
    ]


def score(cosine: Tensor) -> Tensor:
    """CLIPScore of a cosine."""
    return FACTOR * cosine.clamp(min=0)
