"""SigLIP: how well pictures fit their prompts, as a cosine and as the probability that they belong together.

siglip is the cosine of picture and prompt; siglip-probability is sigmoid(scale x cosine + bias) with the scale and bias
of the encoder's training, in 0..1 (Zhai et al. 2023), which is near 0 or 1 for most pictures.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from studio.pipelines.encoders.files import REVISION
from studio.pipelines.encoders.siglip import siglip
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers.base import TextMatch
from studio.pipelines.settings import Part

NUMBERS = ("siglip", "siglip-probability")


class Config(Part):
    """Which SigLIP."""

    encoder: Annotated[
        str, Field(description="SigLIP or SigLIP 2 of fixed resolution in transformers' layout: a folder or a hub id")
    ] = "google/siglip-base-patch16-224"
    revision: Annotated[str, Field(description=REVISION)] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """siglip and siglip-probability. No weights are read before the first call."""
    encoder = siglip(config.encoder, config.revision, device, dtype)

    def about(name: str, number: str, least: float) -> About:
        group = f"{name}: {number}, {encoder.id}"
        return About(name, encoder.id, encoder.preprocessing, group, needs=("prompts",), bounds=(least, 1.0))

    return [
        TextMatch(about("siglip", "cosine", -1.0), encoder, lambda cosine: cosine),
        TextMatch(about("siglip-probability", "sigmoid", 0.0), encoder, encoder.probability),
    ]
