"""What a reward says about a batch of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """The rewards of a batch.

    value: `[B]` float32, larger is better, with a graph where the reward is differentiable, NaN where `good` is not;
    raw: each term's `[B]` in its published unit, without a graph; good: `[B]` bool, the rows that every term could
    score; warnings: what a person should know, to be passed on in `Turn.warnings`; units: where terms are measured in
    their running deviations, what one of each term's raw numbers counts in `value` at present.
    """

    value: Tensor
    raw: dict[str, Tensor]
    good: Tensor
    warnings: tuple[str, ...] = ()
    units: Mapping[str, float] = field(default_factory=dict)

    @property
    def moving(self) -> dict[str, tuple[Tensor, float]]:
        """Each term's raw numbers and their unit; empty where rewards of earlier batches have the same units as these.

        The sum of all numbers times units is `value`, but for a constant.
        """
        return {name: (self.raw[name], unit) for name, unit in self.units.items()}

    @property
    def mean(self) -> Tensor:
        """Over the good rows, with their graph; 0 where there are none."""
        return torch.where(self.good, self.value, 0.0).sum() / self.good.sum().clamp(min=1)
