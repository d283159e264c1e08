"""LPIPS diversity: how different the pictures of one prompt look, mean distance of each to the others.

Zhang et al., arXiv:1801.03924, version 0.1. The mean over all pictures of a prompt is their mean pairwise distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders.perceptual import Name, Perceptual, perceptual
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._sets import by_prompt, finite, unscored
from studio.pipelines.settings import Part

NUMBERS = ("lpips",)


class Config(Part):
    """Which network looks, and where its weights are."""

    backbone: Name = Field("alex", description="network whose features are compared: alex (fast) or vgg")
    weights: Path | None = Field(None, description="file with its ImageNet weights; none: torchvision's own")
    batch: int = Field(16, ge=1, description="pictures the network looks at at once")


class Lpips:
    """Per picture, mean LPIPS distance to the others of its prompt; NaN for a picture that has none beside it."""

    differentiable = True

    def __init__(self, config: Config, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device = config, device
        self.dtype = torch.float32 if device.type == "cpu" else dtype
        source = f" ({config.weights.name})" if config.weights else ""
        encoder = f"LPIPS 0.1 {config.backbone}{source}"
        framing = "0..1 to -1..1 at its own size, LPIPS's shift and scale"
        group = f"lpips: mean pairwise distance, {encoder}"
        self.about = About("lpips", encoder, framing, group, per="prompt", needs=("prompts",), bounds=(0.0, math.inf))

    @property
    def net(self) -> Perceptual:
        """The network, read at the first use. Raises ModelError."""
        return perceptual(self.config.backbone, self.config.weights, self.device, self.dtype)

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for `[B, 3, H, W]` in 0..1. Raises DataError, ModelError."""
        groups, good, found = by_prompt(prompts, images, self.about.name), finite(images), unscored(images)
        for group in groups:
            rows = [row for row in group if good[row]]
            if len(rows) > 1:
                found[rows] = mean_to_others(self.net, images[rows].to(self.device), self.config.batch).to(found)
        return found


def mean_to_others(net: Perceptual, pictures: Tensor, batch: int = 16) -> Tensor:
    """`[B]` mean distance of each of two or more pictures `[B, 3, H, W]` to the others; each is looked at once."""
    layers = net.features(pictures, batch)
    total = pictures.new_zeros(len(pictures))
    for row in range(1, len(pictures)):
        pairs = net.distance([x[row : row + 1] for x in layers], [x[:row] for x in layers])
        total = total + torch.cat([pairs, pairs.sum()[None], pairs.new_zeros(len(pictures) - row - 1)])
    return total / (len(pictures) - 1)


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """The one scorer of this file; nothing is read yet."""
    return [Lpips(config, device, dtype)]
