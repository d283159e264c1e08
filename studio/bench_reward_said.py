"""Intervals in the words of the page on rewards."""

from __future__ import annotations

import math

from studio.evaluation.bootstrap import Interval


def interval(seen: Interval) -> str:
    """`0.512 [0.498, 0.526]`; "" for none."""
    return f"{seen.value:.3g}{ends(seen)}" if seen.n else ""


def signed(seen: Interval) -> str:
    """As `interval`, with its sign."""
    return f"{seen.value:+.3g}{ends(seen, '+')}" if seen.n else ""


def ends(seen: Interval, plus: str = "") -> str:
    """The interval's ends in brackets; "" where it has none."""
    return "" if math.isnan(seen.low) or math.isnan(seen.high) else f" [{seen.low:{plus}.3g}, {seen.high:{plus}.3g}]"
