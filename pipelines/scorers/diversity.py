"""Diversity: how unlike a picture is to the others of its prompt, 1 - mean cosine of features; differentiable.

As ImageReFL measures it, with the class token of a DINO. As a term of a reward it holds up what reward learning takes
away: draw several pictures of each prompt at a time. Compare at equal numbers of seeds only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from studio.pipelines.encoders.base import Encoder
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._sets import View, by_prompt

NUMBERS = ("diversity",)


class Config(View):
    """Whose features."""


class Diversity:
    """Per picture 1 - its mean cosine with the other pictures of its prompt; NaN where there is no other."""

    differentiable = True

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        group = f"diversity: 1 - mean cosine, {encoder.id}"
        self.about = About(
            "diversity", encoder.id, encoder.preprocessing, group, per="prompt", needs=("prompts",), bounds=(0.0, 2.0)
        )

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for `[B, 3, H, W]` in 0..1. Raises DataError, ModelError."""
        groups = by_prompt(prompts, images, self.about.name)
        features = self.encoder.image_features(list(images))
        good = features.detach().isfinite().all(1)
        found: list[Tensor] = [features.new_full((), torch.nan)] * len(images)
        for group in groups:
            rows = [row for row in group if good[row]]
            if len(rows) > 1:
                x = features[rows]
                others = (x @ x.T - torch.diag_embed((x * x).sum(-1))).sum(1) / (len(rows) - 1)
                for row, value in zip(rows, 1 - others, strict=True):
                    found[row] = value
        return torch.stack(found)


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """diversity. Nothing is read yet."""
    return [Diversity(config.open(device, dtype))]
