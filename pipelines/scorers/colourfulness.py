"""Colourfulness: how vivid a picture looks, by the spread and the mean of its opponent colours; it knows no prompt.

Hasler and Suesstrunk 2003, measure M3 on 0..255: deviation + 0.3 mean of (R - G, (R + G) / 2 - B). People called 0 not
colourful, 15 slightly, 33 moderately, 45 averagely, 59 quite, 82 highly and 109 extremely colourful.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._sets import finite
from studio.pipelines.settings import Part

NUMBERS = ("colourfulness",)
MEAN = 0.3  # weight of the mean beside the deviation
MOST = 255 * (2 * (1 + MEAN**2)) ** 0.5  # both opponent colours lie in -255..255


class Config(Part):
    """Nothing to set."""


class Colourfulness:
    """M3 of each picture. Differentiable; NaN pictures are NaN."""

    differentiable = True
    about = About(
        "colourfulness", "", "values times 255, at its own size", "colourfulness: Hasler M3", bounds=(0.0, MOST)
    )

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for `[B, 3, H, W]` in 0..1."""
        red, green, blue = (images.float() * 255).flatten(2).unbind(1)
        both = torch.stack([red - green, (red + green) / 2 - blue], 1)
        spread, middle = both.var(-1, correction=0), both.mean(-1)
        found = root(spread.sum(1)) + MEAN * root(middle.square().sum(1))
        return torch.where(finite(images), found, torch.nan)


def root(x: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0: a grey picture is no reason for an infinite step."""
    positive = x > 0
    return torch.where(positive, x, 1.0).sqrt() * positive


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """The one scorer of this file."""
    return [Colourfulness()]
