"""What a reward says about a batch of pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """The rewards of a batch.

    value: `[B]` float32, larger is better, with a graph where the reward is differentiable, NaN where `good` is not;
    raw: each term's `[B]` in its published unit, without a graph; good: `[B]` bool, the rows that every term could
    score; warnings: what a person should know, to be passed on in `Turn.warnings`.
    """

    value: Tensor
    raw: dict[str, Tensor]
    good: Tensor
    warnings: tuple[str, ...] = ()

    @property
    def mean(self) -> Tensor:
        """Over the good rows, with their graph; 0 where there are none."""
        return torch.where(self.good, self.value, 0.0).sum() / self.good.sum().clamp(min=1)
