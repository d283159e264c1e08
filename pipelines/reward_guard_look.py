"""What one look at the held-out prompts found: every picture's scores, diversity and distance from the base model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

FLAT = 1e-4  # of the mean: pictures whose scores are so near to each other hardly differ


@dataclass(frozen=True)
class Look:
    """step: optimizer steps done; trained: `[N]` trained reward, NaN where a picture has none; parts, held: `[N]` by
    name, the trained terms and the held-out judges in their published units; spread: numbers of diversity by name; kl:
    distance from the base model; broken: pictures that hold values that are no numbers.
    """

    step: int
    trained: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    held: dict[str, Tensor] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    kl: float | None = None
    broken: int = 0

    def pack(self) -> dict[str, Any]:
        """What a checkpoint can keep."""
        return dict(vars(self))

    @staticmethod
    def read(packed: Mapping[str, Any]) -> Look:
        """The inverse of `pack`."""
        return Look(**packed)

    def numbers(self) -> dict[str, float]:
        """What is plotted; a number that could not be taken is left out."""
        found = {"reward/heldout-prompts": mean(self.trained)}
        found |= {f"heldout/{name}": mean(values) for name, values in self.held.items()}
        found |= self.spread | ({} if self.kl is None else {"kl": self.kl})
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def told(self, start: Look) -> str:
        """What held-out judges and diversity are beside the start's, in a line; without what could not be taken."""
        was = {name: mean(values) for name, values in start.held.items()} | start.spread
        now = {name: mean(values) for name, values in self.held.items()} | self.spread
        pairs = [(name, now[name], was[name]) for name in now if name in was and math.isfinite(now[name] + was[name])]
        said = ", ".join(f"{name} {new:.3g} ({old:.3g})" for name, new, old in pairs)
        return f"step {self.step}: the guard sees, and saw at the start: {said}" if said else ""

    def silent(self) -> list[str]:
        """A warning for each judge that could score none of the pictures."""
        names = [name for name, values in self.held.items() if not values.isfinite().any()]
        return [f"step {self.step}: held-out {name} could score none of the pictures" for name in names]


def mean(values: Tensor) -> float:
    """Of the finite ones; NaN without one."""
    return float(values[values.isfinite()].double().mean())


def unit(values: Tensor) -> float:
    """What a change of a score is measured in: the standard deviation of the values over the start's pictures.

    Neither a shift nor a factor of the score changes what so many units mean, so negative scores and scores near zero
    are as good as others. Where the pictures hardly differ it is a tenth of the mean, or 1 where that is 0 too.
    """
    known = values[values.isfinite()].double()
    if not len(known):
        return 1.0
    spread, usual = float(known.std(correction=0)), abs(float(known.mean()))
    return spread if spread > FLAT * usual else usual / 10 or 1.0
