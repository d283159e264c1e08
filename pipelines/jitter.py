"""Small random changes of pictures before they are rewarded: what holds for the exact pixels alone is not rewarded."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from studio.pipelines.ddpm import gaussian
from studio.pipelines.settings import Part


class Jitter(Part):
    """How pictures are changed; nothing by default."""

    crop: Annotated[
        float, Field(gt=0, le=1, description="A random part with at least this share of each side, enlarged; 1: all")
    ] = 1.0
    noise: Annotated[float, Field(ge=0, le=1, description="Deviation of noise added to values in 0..1; 0: none")] = 0.0

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures `[B, 3, H, W]` in 0..1, changed, with their gradient; one crop for all of them."""
        if self.crop < 1:
            share, down, right = torch.rand(3, generator=generator).tolist()
            size = pictures.shape[-2:]
            high, wide = (max(1, round(side * (self.crop + (1 - self.crop) * share))) for side in size)
            top, left = round((size[0] - high) * down), round((size[1] - wide) * right)
            part = pictures[..., top : top + high, left : left + wide]
            pictures = interpolate(part, tuple(size), mode="bilinear", antialias=True)
        if self.noise:
            pictures = (pictures + self.noise * gaussian(pictures, generator)).clamp(0, 1)
        return pictures
