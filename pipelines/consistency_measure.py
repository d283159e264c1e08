"""How Direct Consistency Optimization gets its beta: from what plain training gains on the frozen model's error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Annotated, Literal

from pydantic import BeforeValidator

RATIO = 4.0  # beta times the gain of plain training: there the gate is sigmoid(-4), 0.018
USUAL = 0.05  # of the frozen model's error, where no gain was seen: from an error of 0.08 the published beta of 1000


def positive(value: object) -> object:
    """ValueError unless it is "auto" or a finite number above 0."""
    try:
        good = value == "auto" or 0 < float(value) < math.inf  # type: ignore[arg-type]
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError("give auto, or a number above 0")
    return value


Beta = Annotated[float | Literal["auto"], BeforeValidator(positive)]


@dataclass(frozen=True)
class Measure:
    """What a trial found: in so many steps, plain training's gain on the frozen model's mean error.

    noise: the standard error of the gain; a gain within twice of it is none, and USUAL of the error stands for it.
    """

    steps: int
    gain: float
    noise: float
    error: float

    @classmethod
    def of(cls, steps: int, gaps: Sequence[float], errors: Sequence[float]) -> Measure:
        """From the measured steps' mean gaps and mean errors; one of them alone is all noise."""
        noise = stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
        return cls(steps, -fmean(gaps), noise, fmean(errors))

    @property
    def sure(self) -> bool:
        return self.gain > 2 * self.noise

    @property
    def beta(self) -> float:
        return RATIO / (self.gain if self.sure else USUAL * self.error)

    @property
    def message(self) -> str:
        """Beta and what it was made of; '' where it was no gain."""
        if not self.sure:
            return ""
        return (
            f"beta = {self.beta:.4g}: {self.steps} plain steps gained {self.gain:.3g} on the base model's error of "
            f"{self.error:.3g}; the adapter starts over"
        )

    @property
    def warning(self) -> str:
        """Beta, and that no gain was seen; '' where one was."""
        if self.sure:
            return ""
        return (
            f"beta = {self.beta:.4g}, for a gain of {USUAL:.0%}: what {self.steps} plain steps gained, {self.gain:.2g} "
            f"on the base model's error of {self.error:.3g}, is within its noise, and more steps or a larger lr show "
            "more; the adapter starts over"
        )
