"""What the benchmark of rewards found: races to a level, sweeps, runs that were stopped, runs beside their start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from studio.bench_reward_cells import Cell, cells
from studio.bench_reward_config import Before, Hack, Race, Study, Sweep
from studio.bench_reward_curves import Curve, asked, clock, curve, looked, times
from studio.bench_reward_measure import FRESH, Sheet

Verdict = Literal["holds", "does not hold", "undecided", "no data yet"]
LEAST = 3  # seeds
DIVERSITY = ("diversity", "diversity/across")


@dataclass(frozen=True)
class Known:
    """What a finished, measured cell left behind. ended: why it was over before its last step; looks: of its guard, the
    held-out numbers by step.
    """

    seed: int
    curve: Curve
    sheet: Sheet
    sampler_steps: int
    ended: str = ""
    looks: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def each(self) -> float:
        """Seconds of drawing one picture with the run's own sampler, mean of all looks."""
        rows = [row for row in self.sheet.rows if row.sampler_steps == self.sampler_steps]
        return sum(row.seconds * row.pictures for row in rows) / sum(row.pictures for row in rows)

    @property
    def last(self) -> int:
        """The last measured step."""
        return self.curve.points[-1].step

    @property
    def fresh(self) -> dict[int, dict[str, float]]:
        """The numbers by step of other seeds than those that everything else is measured with."""
        return self.sheet.steps(self.sampler_steps, FRESH)


Runs = Mapping[str, Sequence[Known]]


def gather(study: Study, seeds: Sequence[int], out: Path, file: Path) -> dict[str, list[Known]]:
    """The finished and measured cells of every recipe."""
    found: dict[str, list[Known]] = {}
    for cell in cells(study, study.runs(), seeds, out, file):
        if cell.done and cell.about.measured and (sheet := Sheet.read(cell.run)).get(0, cell.about.draw.steps):
            found.setdefault(cell.recipe, []).append(known(cell, sheet))
    return found


def known(cell: Cell, sheet: Sheet) -> Known:
    """One cell's curve over what it cost."""
    events, steps = list(cell.run.events()), cell.about.draw.steps
    done = cell.run.last("done")
    made = curve(sheet.steps(steps), clock(events), asked(events))
    looks = {hack.held_out: looked(events, hack.held_out) for hack in cell.study.hack}
    return Known(cell.seed, made, sheet, steps, str(done.get("ended") or "") if done is not None else "", looks)


def pairs(runs: Runs, one: str, other: str) -> list[tuple[Known, Known]]:
    """Of each seed that both runs have."""
    theirs = {known.seed: known for known in runs.get(other, ())}
    return [(known, theirs[known.seed]) for known in runs.get(one, ()) if known.seed in theirs]


def sign(better: str) -> float:
    """1 where more is better, -1 where less is."""
    return 1.0 if better == "higher" else -1.0


@dataclass(frozen=True)
class Lap:
    """One seed of a race, in numbers of which more is better. start, level: where `against` begins and ends; theirs,
    mine: the cost until the level; reached: whether the run is there at its end, else `mine` is all that it cost;
    until: seconds of the run that ended first; ours, others: the number of both then.
    """

    seed: int
    start: float
    level: float
    theirs: float
    mine: float
    reached: bool
    until: float
    ours: float
    others: float

    @property
    def rose(self) -> bool:
        """Whether there was a level to reach."""
        return self.level > self.start and self.theirs > 0

    @property
    def ratio(self) -> float:
        """How many times less it cost; at most, where it is not reached; infinite where it was there from the start."""
        return self.theirs / self.mine if self.mine else math.inf


def laps(race: Race, runs: Runs, gain: bool = False) -> list[Lap]:
    """Every seed. gain: the level is as far above the run's own start as `against` ends above its own."""
    return [lap(race, one, other, gain) for one, other in pairs(runs, race.run, race.against)]


def lap(race: Race, one: Known, other: Known, gain: bool) -> Lap:
    """One seed."""
    way = sign(race.better)
    ours, theirs = one.curve.values(race.number, way), other.curve.values(race.number, way)
    level = theirs[-1]
    wanted = level + (ours[0] - theirs[0] if gain else 0.0)
    mine = one.curve.reach(race.number, wanted, race.unit, way)
    until = min(known.curve.along("seconds")[-1] for known in (one, other))
    then = [way * known.curve.at(race.number, "seconds", until) for known in (one, other)]
    return Lap(
        one.seed, theirs[0], level, other.curve.reach(race.number, level, race.unit, way) or 0.0,
        one.curve.along(race.unit)[-1] if mine is None else mine, mine is not None, until, *then,
    )  # fmt: skip


def raced(found: Sequence[Lap], bar: float) -> Verdict:
    """Whether it cost at least `bar` times less, by the interval over seeds."""
    rows = [one for one in found if one.rose]
    if not rows:
        return "no data yet"
    if len(rows) < max(LEAST, len(found)):
        return "undecided"
    if all(one.reached and one.ratio == math.inf for one in rows):
        return "holds"
    seen = times([one.ratio for one in rows], [one.seed for one in rows])
    if all(one.reached for one in rows) and seen.low > bar:
        return "holds"
    return "does not hold" if seen.high < bar else "undecided"


@dataclass(frozen=True)
class Swept:
    """One seed of a run of a sweep. gone: the first measured step at which too little diversity was left, None for
    never; left: the least share of the start's, over the run; value: the reward at its end.
    """

    seed: int
    value: float
    gain: float
    left: float
    gone: int | None


def swept(sweep: Sweep, run: str, runs: Runs) -> list[Swept]:
    """Every seed."""
    return [one_swept(sweep, known) for known in runs.get(run, ())]


def one_swept(sweep: Sweep, known: Known) -> Swept:
    """One seed."""
    values, way = known.curve.values(sweep.number), sign(sweep.better)
    shares = [diverse(known.curve, row) for row in range(len(values))]
    gone = (point.step for point, share in zip(known.curve.points, shares, strict=True) if share < sweep.collapse)
    return Swept(known.seed, values[-1], way * (values[-1] - values[0]), min(shares), next(gone, None))


def diverse(curve: Curve, row: int) -> float:
    """Which share of its start's diversity is left at a point: of one prompt's pictures or of all, the less."""
    found = [curve.values(name) for name in DIVERSITY]
    return min((values[row] / values[0] for values in found if values[0] > 0), default=math.nan)


def first(sweep: Sweep, runs: Runs) -> str:
    """The run whose diversity is gone first, in every seed that has all of them; "" where they do not agree."""
    tables = {name: {one.seed: one for one in swept(sweep, name, runs)} for name in sweep.runs}
    common = set.intersection(*(set(table) for table in tables.values()))
    firsts = set()
    for seed in common:
        gone = {name: math.inf if (at := table[seed].gone) is None else at for name, table in tables.items()}
        least = [name for name, at in gone.items() if at == min(gone.values())]
        firsts.add(least[0] if len(least) == 1 else "")
    return firsts.pop() if len(firsts) == 1 else ""


@dataclass(frozen=True)
class Stopped:
    """One seed of a run that cheats. ended: the guard's reason, "" where it did not stop the run; best_step: of the
    guard's best look. start, best, back, free: the held-out number by other pictures than the guard's, at the start,
    at that step, after the guard went back, and at the end of the run without a guard; of_all: the roll-back's share of
    the best of all checkpoints, by the pictures that everything is measured with.
    """

    seed: int
    step: int
    ended: str
    best_step: int
    start: float
    best: float
    back: float
    free: float
    reward: float
    free_reward: float
    of_all: float

    @property
    def kept(self) -> float:
        """The roll-back's share of the best seen."""
        return self.back / self.best


def stopped(hack: Hack, runs: Runs) -> list[Stopped]:
    """Every seed."""
    return [one_stopped(hack, *both) for both in pairs(runs, hack.run, hack.free)]


def one_stopped(hack: Hack, one: Known, free: Known) -> Stopped:
    """One seed."""
    looks, again, wild = one.looks[hack.held_out], one.fresh, free.fresh[free.last]
    best = max(looks, key=lambda step: looks[step])
    start, peak, back = (again[step][hack.held_out] for step in (0, best, one.last))
    values = one.curve.values(hack.held_out)
    return Stopped(
        one.seed, one.last, one.ended, best, start, peak, back, wild[hack.held_out],
        again[one.last][hack.reward], wild[hack.reward], values[-1] / max(values),
    )  # fmt: skip


def held(found: Sequence[Stopped], bar: float) -> Verdict:
    """Whether every seed was stopped, and is as good as the best seen."""
    if not found:
        return "no data yet"
    good = all(one.ended and one.kept >= 1 - bar for one in found)
    return ("holds" if len(found) >= LEAST else "undecided") if good else "does not hold"


def change(before: Before, number: str, runs: Runs) -> list[tuple[int, float, float]]:
    """(seed, at the start, at the end) of a run's number."""
    rows = [(known.seed, known.curve.values(number)) for known in runs.get(before.run, ())]
    return [(seed, values[0], values[-1]) for seed, values in rows]


def kept(before: Before, runs: Runs) -> Verdict:
    """Whether no number that should stay has fallen, on the mean over seeds, and one of the others has risen."""
    rows = {number: change(before, number, runs) for number in before.numbers}
    if not any(rows.values()):
        return "no data yet"
    if min(len(row) for row in rows.values()) < LEAST:
        return "undecided"
    means = {name: (fmean(old for _, old, _ in row), fmean(new for *_, new in row)) for name, row in rows.items()}
    stays = all(new >= old - before.bar * abs(old) for name, (old, new) in means.items() if name in before.keep)
    rises = any(new > old for name, (old, new) in means.items() if name not in before.keep)
    return "holds" if stays and rises else "does not hold"
