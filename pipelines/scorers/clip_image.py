"""CLIP-I: mean cosine of a picture and all references of the subject, by CLIP's image side."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from studio.pipelines.encoders.clip import BASE, clip
from studio.pipelines.encoders.files import REVISION
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers.base import ImageMatch
from studio.pipelines.settings import Part

NUMBERS = ("clip-i",)


class Config(Part):
    """Which CLIP. Published numbers (DreamBooth, Custom Diffusion) are ViT-B/32's."""

    encoder: Annotated[str, Field(description="CLIP in transformers' layout: a folder or a hub id")] = BASE
    revision: Annotated[str, Field(description=REVISION)] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """clip-i. No weights are read before the first call."""
    encoder = clip(config.encoder, config.revision, device, dtype)
    group = f"clip-i: mean cosine, {encoder.id}"
    bounds = (-1.0, 1.0)
    about = About("clip-i", encoder.id, encoder.preprocessing, group, needs=("references",), bounds=bounds)
    return [ImageMatch(about, encoder)]
