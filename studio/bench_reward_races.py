"""Races of the benchmark of rewards: what it cost two runs to come to one level of a held-out number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from studio.bench_reward_config import Race
from studio.bench_reward_curves import times
from studio.bench_reward_findings import LEAST, Known, Runs, Verdict, pairs, sign
from studio.bench_reward_sheet import gain as gained
from studio.evaluation.bootstrap import Interval


@dataclass(frozen=True)
class Lap:
    """One seed of a race, in numbers of which more is better. start, level: where `against` begins, and ends or is at
    best; gain: that difference picture by picture; wanted: the level that the run is to come to; theirs, mine: the cost
    until then, by the line between two checkpoints of `against` and by the run's first checkpoint there, at least an
    update of either; reached: whether the run is there at its end, else `mine` is all that it cost; already: it is
    there untrained.
    """

    seed: int
    start: float
    level: float
    gain: Interval
    wanted: float
    theirs: float
    mine: float
    reached: bool
    already: bool

    @property
    def rose(self) -> bool:
        """Whether there is a level to reach: what `against` gained is more than the noise of its pictures."""
        return self.gain.low > 0

    @property
    def ratio(self) -> float:
        """How many times less it cost; at most, where it is not reached."""
        return self.theirs / self.mine if self.mine else math.nan


Level = Literal["end", "gain", "best"]


def laps(race: Race, runs: Runs, to: Level = "end") -> list[Lap]:
    """Every seed. to: the level that `against` ends with, as far above the run's own start as `against` ends above its
    own, or the best level that any checkpoint of `against` has.
    """
    return [lap(race, one, other, to) for one, other in pairs(runs, race.run, race.against)]


def lap(race: Race, one: Known, other: Known, to: Level) -> Lap:
    """One seed."""
    way, number, unit = sign(race.better), race.number, race.unit
    ours, theirs = one.curve.values(number, way), other.curve.values(number, way)
    level, last = theirs[-1], other.last
    if to == "best":
        seen = [(value, point.step) for value, point in zip(theirs, other.curve.points, strict=True)]
        level, last = max((one for one in seen if math.isfinite(one[0])), default=(level, last))
    wanted = level + (ours[0] - theirs[0] if to == "gain" else 0.0)
    there, cost = one.curve.there(number, wanted, unit, way), other.curve.reach(number, level, unit, way)
    mine = one.curve.along(unit)[-1] if there is None else there
    return Lap(
        one.seed, theirs[0], level, gained(other.changes(number, last), way), wanted,
        max(cost or 0.0, other.curve.update(unit)), max(mine, one.curve.update(unit)), there is not None, there == 0,
    )  # fmt: skip


def raced(found: Sequence[Lap], bar: float) -> Verdict:
    """Whether it cost at least `bar` times less, by the interval over seeds; every seed must have a level to reach."""
    rows = [one for one in found if one.rose]
    if not rows:
        return "nothing gained to reach" if found else "no data yet"
    if all(one.already for one in rows):
        return "there from the start"
    if len(rows) < max(LEAST, len(found)) or any(one.already for one in rows):
        return "undecided"
    seen = times([one.ratio for one in rows], [one.seed for one in rows])
    if all(one.reached for one in rows) and seen.low > bar:
        return "holds"
    return "does not hold" if seen.high < bar else "undecided"


def pooled(race: Race, runs: Runs) -> list[Interval]:
    """What both runs gained, picture by picture over the seeds that they share, with intervals over prompts."""
    return [
        gained([change for known in side for change in known.changes(race.number)], sign(race.better))
        for side in zip(*pairs(runs, race.run, race.against), strict=True)
    ]


@dataclass(frozen=True)
class Side:
    """A number that is not raced for, of both runs of a seed: untrained, and where they are at the level that the other
    ends with.
    """

    seed: int
    mine: tuple[float, float]
    theirs: tuple[float, float]


def beside(race: Race, number: str, runs: Runs) -> list[Side]:
    """Every seed that has a level and comes to it."""
    found = []
    for one, other in pairs(runs, race.run, race.against):
        seen, at = lap(race, one, other, "end"), one.curve.values(race.number, sign(race.better))
        if seen.rose and seen.reached:
            first = next(place for place, value in enumerate(at) if value >= seen.wanted)
            mine, theirs = one.curve.values(number), other.curve.values(number)
            found.append(Side(one.seed, (mine[0], mine[first]), (theirs[0], theirs[-1])))
    return found


@dataclass(frozen=True)
class Equal:
    """One seed of both runs when they have cost the same. where: as much; ours, theirs: gain over the own start; ahead:
    how much better the run's number is than the other's.
    """

    seed: int
    where: float
    ours: float
    theirs: float
    ahead: float


def equal(race: Race, unit: str, runs: Runs) -> list[Equal]:
    """Every seed, when the cheaper of both is at its end."""
    return [one_equal(race, unit, *both) for both in pairs(runs, race.run, race.against)]


def one_equal(race: Race, unit: str, one: Known, other: Known) -> Equal:
    """One seed."""
    where, way = min(known.curve.along(unit)[-1] for known in (one, other)), sign(race.better)
    (old, new), (before, after) = (
        (way * known.curve.values(race.number)[0], way * known.curve.at(race.number, unit, where))
        for known in (one, other)
    )
    return Equal(one.seed, where, new - old, after - before, new - after)
