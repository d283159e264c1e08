"""How often one side was chosen, with an exact binomial interval: what so few answers can say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Counts:
    """Answers of a blind test. first, second: how often that side was chosen; same: neither; left: pictures on the
    left that were chosen, of first + second; total: pairs that were to be answered.
    """

    first: int
    second: int
    same: int
    left: int
    total: int

    @property
    def answered(self) -> int:
        """How many pairs have an answer."""
        return self.first + self.second + self.same

    @property
    def share(self) -> tuple[float, float, float]:
        """How often the first side was chosen where a choice was made, with its 95 % interval; NaN before one was."""
        n = self.first + self.second
        return (self.first / n if n else math.nan, *interval(self.first, n))

    def verdict(self, first: str, second: str) -> str:
        """Which side was preferred, as far as the interval says."""
        n = self.first + self.second
        if not n:
            return f"No choice was made: {self.same} pairs looked the same."
        share, low, high = self.share
        said = (
            f"{first} was chosen in {self.first} of {n} pairs: {share:.0%} "
            f"(95 % interval {low:.0%} to {high:.0%}); {self.same} looked the same. "
        )
        if low > 0.5 or high < 0.5:
            said += f"{first if low > 0.5 else second} is clearly preferred."
        else:
            said += f"No clear preference between {first} and {second}: more pairs would narrow it."
        if self.answered < self.total:
            said += f" Told after {self.answered} of {self.total} pairs: the interval holds for finished tests."
        return said + self.habit()

    def habit(self) -> str:
        """That one side of the screen was preferred, whatever stood there; "" where it was not."""
        n = self.first + self.second
        low, high = interval(self.left, n)
        if not n or low <= 0.5 <= high:
            return ""
        return f" The {'left' if low > 0.5 else 'right'} picture was chosen more often than chance: look again."


def interval(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact (Clopper-Pearson) interval of a share of `hits` in `n`: covers the truth at least that often."""
    if not n:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else solve(lambda p: at_least(hits, n, p) - tail)
    high = 1.0 if hits == n else solve(lambda p: tail - (1 - at_least(hits + 1, n, p)))
    return low, high


def at_least(hits: int, n: int, p: float) -> float:
    """The chance of `hits` or more in `n`, each with chance `p`."""
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))


def solve(rising: Callable[[float], float]) -> float:
    """Where a rising function of 0..1 crosses zero, to 1e-9."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2
