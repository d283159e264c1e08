"""What a run measured, as curves over reward queries and seconds of training, and where a curve reaches a level."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from studio.evaluation import bootstrap
from studio.evaluation.bootstrap import Interval
from studio.events import Event

QUERIES, HELD, START = "queries", "heldout/", "start/"  # in the numbers of a step's event


@dataclass(frozen=True)
class Point:
    """One checkpoint: optimizer steps, reward queries and seconds of training until then, and what was measured."""

    step: int
    queries: float
    seconds: float
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """The checkpoints of one run, oldest first; the first is its start."""

    points: tuple[Point, ...]

    def along(self, unit: str) -> list[float]:
        """steps, queries or seconds of every point."""
        return [float(getattr(point, unit)) for point in self.points]

    def values(self, number: str, sign: float = 1.0) -> list[float]:
        """What was measured at every point, larger is better with the right sign; NaN where it was not."""
        return [sign * point.numbers.get(number, math.nan) for point in self.points]

    def reach(self, number: str, level: float, unit: str, sign: float = 1.0) -> float | None:
        """How many queries or seconds it took to the level, between two checkpoints on the line; None: never."""
        return reach(self.along(unit), self.values(number, sign), level)

    def there(self, number: str, level: float, unit: str, sign: float = 1.0) -> float | None:
        """How many queries or seconds the first checkpoint at the level or above it took; None where there is none."""
        both = zip(self.along(unit), self.values(number, sign), strict=True)
        return next((x for x, value in both if value >= level), None)  # NaN is below any

    def update(self, unit: str) -> float:
        """Queries or seconds of one update, the least that learning can cost; 0 where only the start is measured."""
        first = next((point for point in self.points if point.step), None)
        return float(getattr(first, unit)) / first.step if first is not None else 0.0

    def at(self, number: str, unit: str, where: float) -> float:
        """The number after so many queries or seconds, between two checkpoints on the line through them."""
        return at(self.along(unit), self.values(number), where)


def reach(along: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Where a curve first is at a level or above it, on the lines between its points; None: nowhere. NaN is left out.

    0 where it is there from the start.
    """
    points = [(x, y) for x, y in zip(along, values, strict=True) if math.isfinite(y)]
    for number, (x, y) in enumerate(points):
        if y < level:
            continue
        if not number:
            return x
        before, below = points[number - 1]
        return before + (x - before) * (level - below) / (y - below)
    return None


def at(along: Sequence[float], values: Sequence[float], where: float) -> float:
    """A curve's value at a place, on the lines between its points; its ends go on level. NaN of no point."""
    points = [(x, y) for x, y in zip(along, values, strict=True) if math.isfinite(y)]
    if not points:
        return math.nan
    for (before, below), (x, y) in zip(points, points[1:], strict=False):
        if before <= where < x:
            return below + (y - below) * (where - before) / (x - before)
    return points[0][1] if where < points[0][0] else points[-1][1]


def clock(events: Iterable[Event]) -> dict[int, float]:
    """Seconds of training after each step, by the times of its events; of processor where it took less than that.

    A run of one thread took less where others used its core, or where it was held. Loading, previews, checkpoints'
    scores and the time between two starts do not count: a step after one of those takes the median of the others. A
    step that a resumed run did again counts once. A roll-out lies in the step that learns from it first: it is drawn
    when that step asks for its loss, after the event of the one before.
    """
    taken: dict[int, float | None] = {}
    before: Event | None = None
    for event in events:
        if event.phase != "train" or event.event in ("stopped", "failed"):
            before = None
        elif event.numbers:
            follows = before is not None and event.step == before.step + 1
            taken[event.step] = between(before, event) if before is not None and follows else None
            before = event
    known = [seconds for seconds in taken.values() if seconds is not None]
    usual, total, found = median(known) if known else math.nan, 0.0, {}
    for step in sorted(taken):
        seconds = taken[step]
        total += usual if seconds is None else seconds
        found[step] = total
    return found


def between(before: Event, after: Event) -> float | None:
    """Seconds from one event to another of the same process; None: it is another one, which counts from 0 again."""
    passed, begun, ended = after.time - before.time, before.get("busy"), after.get("busy")
    if begun is None or ended is None:
        return passed
    return None if ended < begun else min(passed, ended - begun)


def asked(events: Iterable[Event]) -> dict[int, float]:
    """Reward queries until each step, as its event says."""
    steps = (event for event in events if event.phase == "train" and QUERIES in event.numbers)
    return {event.step: float(event.numbers[QUERIES]) for event in steps}


def looked(events: Iterable[Event], number: str) -> dict[int, float]:
    """What a run's guard saw of a held-out number, by step; its first look is that of step 0."""
    found: dict[int, float] = {}
    for event in events:
        for name, step in ((f"{START}{HELD}{number}", 0), (f"{HELD}{number}", event.step)):
            if name in event.numbers:
                found[step] = float(event.numbers[name])
    return found


def curve(
    measured: Mapping[int, Mapping[str, float]], seconds: Mapping[int, float], queries: Mapping[int, float]
) -> Curve:
    """Every measured checkpoint with its cost; step 0 costs nothing."""
    free = {0: 0.0}
    costs = {step: ({**free, **queries}[step], {**free, **seconds}[step]) for step in measured if step in {0, *queries}}
    return Curve(tuple(Point(step, *costs[step], measured[step]) for step in sorted(costs)))


def mean(values: Sequence[float], seeds: Sequence[Hashable]) -> Interval:
    """The mean over seeds with its 95 % interval."""
    return bootstrap.interval(values, seeds)


def times(values: Sequence[float], seeds: Sequence[Hashable]) -> Interval:
    """The geometric mean of ratios over seeds with its 95 % interval; what is not above 0 and finite is left out."""
    logs = [math.log(value) if 0 < value < math.inf else math.nan for value in values]
    found = bootstrap.interval(logs, seeds)
    return Interval(math.exp(found.value), math.exp(found.low), math.exp(found.high), found.n)
