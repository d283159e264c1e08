"""Guidance made of branches: predictions for several conditionings and strengths of the adapter, combined into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from studio.pipelines.guidance import expand
from studio.pipelines.guidance_strength import acting
from studio.pipelines.protocols import Adapter, Cond, Predict


@dataclass(frozen=True)
class Branch:
    """One prediction of a step.

    strength: of the adapter, times the one it runs at: 1 leaves it alone, 0 is the base model; cond: what the network
    is told, one row or one per picture, None for the prompt's own conditioning.
    """

    name: str
    strength: float = 1.0
    cond: Cond | None = None


@dataclass(frozen=True)
class Plan:
    """The branches of a step, and what is made of their predictions, by name."""

    branches: tuple[Branch, ...]
    combine: Callable[[Mapping[str, Tensor]], Tensor]

    def groups(self) -> list[list[Branch]]:
        """The branches by strength, in order: each group is one call of the network."""
        strengths = dict.fromkeys(branch.strength for branch in self.branches)
        return [[branch for branch in self.branches if branch.strength == strength] for strength in strengths]

    def of(self, rows: Tensor, count: int) -> Plan:
        """The same for some rows of a batch of `count`."""
        conds = [None if one.cond is None else expand(one.cond, count)[rows] for one in self.branches]
        return replace(
            self, branches=tuple(replace(one, cond=cond) for one, cond in zip(self.branches, conds, strict=True))
        )


@dataclass(frozen=True)
class Branched:
    """A `Guidance` of branches. plan: the step's, or a function of its timestep; adapter: whose strength changes.

    Raises UsageError for strengths that the adapter cannot have. Afterwards the adapter is as it was.
    """

    plan: Plan | Callable[[float], Plan]
    adapter: Adapter | None

    def at(self, t: float) -> Plan:
        """The plan for a timestep."""
        return self.plan if isinstance(self.plan, Plan) else self.plan(t)

    def cost(self, t: float) -> tuple[int, ...]:
        """Rows per picture of each call of the network, at a timestep."""
        return tuple(len(group) for group in self.at(t).groups())

    def __call__(self, predict: Predict) -> Predict:
        def guided(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            if isinstance(self.plan, Plan):
                return self._follow(self.plan, predict, x, t, cond)
            times = t.unique().tolist()
            if len(times) == 1:
                return self._follow(self.at(times[0]), predict, x, t, cond)
            rows = [(t == time).nonzero().flatten() for time in times]
            plans = [self.at(time).of(some, len(x)) for time, some in zip(times, rows, strict=True)]
            parts = [self._follow(plan, predict, x[r], t[r], cond[r]) for plan, r in zip(plans, rows, strict=True)]
            return torch.cat(parts)[torch.cat(rows).argsort()]

        return guided

    def _follow(self, plan: Plan, predict: Predict, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        found: dict[str, Tensor] = {}
        for group in plan.groups():
            conds = [cond if branch.cond is None else expand(branch.cond, len(x)) for branch in group]
            with acting(self.adapter, group[0].strength):
                out = predict(torch.cat([x] * len(group)), torch.cat([t] * len(group)), Cond.cat(conds))
            found |= zip([branch.name for branch in group], out.chunk(len(group)), strict=True)
        return plan.combine(found)
