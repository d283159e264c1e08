"""Vendi score: how many different pictures a prompt's pictures amount to, from 1 (all equal) to their number.

Friedman and Dieng, arXiv:2210.02410, with the cosine of an encoder's features as the similarity. It depends on how many
pictures there are: compare at equal numbers of seeds only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from studio.pipelines.encoders.base import Encoder
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._sets import View, by_prompt, unscored

NUMBERS = ("vendi",)


class Config(View):
    """Whose features."""


class Vendi:
    """Per picture the score of its prompt's pictures; NaN where a prompt has only one."""

    differentiable = False

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        group = f"vendi: cosine, {encoder.id}"
        bounds = (1.0, math.inf)
        self.about = About(
            "vendi", encoder.id, encoder.preprocessing, group, per="prompt", needs=("prompts",), bounds=bounds
        )

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for `[B, 3, H, W]` in 0..1. Raises DataError, ModelError."""
        groups, found = by_prompt(prompts, images, self.about.name), unscored(images)
        with torch.no_grad():
            features = self.encoder.image_features(list(images))
        good = features.isfinite().all(1)
        for group in groups:
            rows = [row for row in group if good[row]]
            if len(rows) > 1:
                found[rows] = vendi(features[rows])
        return found


def vendi(features: Tensor) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the cosines of unit features `[n, D]`; in 1..n."""
    x = features.double()
    kernel = x @ x.T if len(x) <= x.shape[1] else x.T @ x  # the same eigenvalues but for zeros
    values = torch.linalg.eigvalsh(kernel / len(x)).clamp(min=0)
    return float(torch.special.entr(values / values.sum()).sum().exp())


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """The one scorer of this file; nothing is read yet."""
    return [Vendi(config.open(device, dtype))]
