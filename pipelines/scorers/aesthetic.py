"""Aesthetic: LAION's predictor v2 of how people rate a picture, 1 to 10; it does not know the prompt.

The published head has five linear layers without activations, so it is one affine map of the unit CLIP ViT-L/14
feature and is kept as one. Its range is about -13 to 23, natural pictures have 4 to 7; "10" is no bound, and one
direction of CLIP's space raises it for every picture: never judge by it alone, least of all where it was the reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders import single
from studio.pipelines.encoders.affine import folded
from studio.pipelines.encoders.base import Encoder, load_or_refuse
from studio.pipelines.encoders.clip import clip
from studio.pipelines.encoders.files import REVISION
from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.settings import Part

FILE = "aesthetic-model.pth"
NUMBERS = ("aesthetic",)


class Config(Part):
    """Which CLIP, and which head on it: other heads of the same shape (ava+logos) are other rewards."""

    encoder: Annotated[str, Field(description="CLIP ViT-L/14 in transformers' layout: a folder or a hub id")] = (
        "openai/clip-vit-large-patch14"
    )
    revision: Annotated[str, Field(description=REVISION)] = ""
    head: Annotated[
        str, Field(description=f"LAION's ten tensors: a file, or a folder or hub id with {FILE} (or .safetensors)")
    ] = "trl-lib/ddpo-aesthetic-predictor"
    head_revision: Annotated[str, Field(description=REVISION)] = ""


class Aesthetic:
    """An affine map of the unit image feature. NaN pictures are NaN; raises ModelError."""

    differentiable = True

    def __init__(self, encoder: Encoder, config: Config) -> None:
        self.encoder, self.config = encoder, config
        self.title = single.title(config.head, config.head_revision, FILE)
        name = f"{encoder.id} with {self.title}"
        self.about = About("aesthetic", name, encoder.preprocessing, f"aesthetic: LAION v2, {name}")

    @cached_property
    def head(self) -> tuple[Tensor, Tensor]:
        """(weight `[D]`, bias `[]`). Raises ModelError when it cannot be had."""
        return load_or_refuse(self.title, self.read)

    def read(self) -> tuple[Tensor, Tensor]:
        """The head out of its file."""
        weight, bias = folded(single.tensors(single.find(self.config.head, self.config.head_revision, FILE)))
        return weight.to(self.encoder.device), bias.to(self.encoder.device)

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` in 0..1."""
        weight, bias = self.head
        features = self.encoder.image_features(list(images))
        if len(weight) != features.shape[1]:
            raise ModelError(
                f"{self.title}: a head on {len(weight)} numbers, of which {self.encoder.id} gives {features.shape[1]}; "
                "name the CLIP that it was made for"
            )
        return features @ weight + bias


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """aesthetic. No weights are read before the first call."""
    return [Aesthetic(clip(config.encoder, config.revision, device, dtype), config)]
