"""What the benchmark of rewards found: what each run left behind, sweeps, runs beside their start."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from studio.bench_reward_cells import Cell
from studio.bench_reward_config import Before, Sweep
from studio.bench_reward_curves import Curve, asked, clock, curve, looked, mean
from studio.bench_reward_sheet import FRESH, Sheet
from studio.evaluation.bootstrap import Interval

Verdict = Literal[
    "holds", "does not hold", "undecided", "no data yet", "nothing gained to reach", "there from the start",
    "goes back to the start",
]  # fmt: skip
LEAST = 3  # seeds
BACK = "guard/back"  # in the numbers of a step's event
DIVERSITY = ("diversity", "diversity/across")


@dataclass(frozen=True)
class Known:
    """What a finished, measured cell left behind. ended: why it was over before its last step; looks: of its guard, the
    held-out numbers by step; back: the step that it went back to.
    """

    seed: int
    curve: Curve
    sheet: Sheet
    sampler_steps: int
    ended: str = ""
    looks: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    back: int | None = None

    @property
    def each(self) -> float:
        """Seconds of drawing one picture with the run's own sampler, at the quickest look: others use the cores."""
        return min(row.seconds for row in self.sheet.rows if row.sampler_steps == self.sampler_steps)

    @property
    def last(self) -> int:
        """The last measured step."""
        return self.curve.points[-1].step

    def changes(self, number: str, step: int | None = None) -> list[tuple[int, float]]:
        """(prompt, change of a picture's number from the start to a step or the end), of equal noise."""
        return self.sheet.changes(number, self.last if step is None else step, self.sampler_steps)

    @property
    def fresh(self) -> dict[int, dict[str, float]]:
        """The numbers by step of other seeds than those that everything else is measured with."""
        return self.sheet.steps(self.sampler_steps, FRESH)


Runs = Mapping[str, Sequence[Known]]


def gather(finished: Iterable[Cell]) -> dict[str, list[Known]]:
    """What cells left behind, by recipe; all of them trained, and measured where they are to be."""
    found: dict[str, list[Known]] = {}
    for cell in finished:
        if cell.about.measured and (sheet := Sheet.read(cell.run)).get(0, cell.about.draw.steps):
            found.setdefault(cell.recipe, []).append(known(cell, sheet))
    return found


def known(cell: Cell, sheet: Sheet) -> Known:
    """One cell's curve over what it cost."""
    events, steps = list(cell.run.events()), cell.about.draw.steps
    done = cell.run.last("done")
    made = curve(sheet.steps(steps), clock(events), asked(events))
    looks = {hack.held_out: looked(events, hack.held_out) for hack in cell.study.hack}
    ended = str(done.get("ended") or "") if done is not None else ""
    back = next((int(event.numbers[BACK]) for event in reversed(events) if BACK in event.numbers), None)
    return Known(cell.seed, made, sheet, steps, ended, looks, back)


def pairs(runs: Runs, one: str, other: str) -> list[tuple[Known, Known]]:
    """Of each seed that both runs have."""
    theirs = {known.seed: known for known in runs.get(other, ())}
    return [(known, theirs[known.seed]) for known in runs.get(one, ()) if known.seed in theirs]


def sign(better: str) -> float:
    """1 where more is better, -1 where less is."""
    return 1.0 if better == "higher" else -1.0


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
    """Every seed that all runs of the sweep have which have any."""
    common = set.intersection(*({one.seed for one in runs[name]} for name in sweep.runs if runs.get(name)))
    return [one_swept(sweep, known) for known in runs.get(run, ()) if known.seed in common]


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


def change(before: Before, number: str, runs: Runs) -> list[tuple[int, float, float]]:
    """(seed, at the start, at the end) of a run's number."""
    rows = [(known.seed, known.curve.values(number)) for known in runs.get(before.run, ())]
    return [(seed, values[0], values[-1]) for seed, values in rows]


def kept(before: Before, runs: Runs) -> Verdict:
    """Whether no number that should stay has fallen, and the mean of one of the others has risen.

    It holds where the intervals over seeds of what should stay lie above the fall that is allowed, does not where one
    lies below it, and is undecided otherwise.
    """
    rows = {number: change(before, number, runs) for number in before.numbers}
    if not any(rows.values()):
        return "no data yet"
    if min(len(row) for row in rows.values()) < LEAST:
        return "undecided"
    over = [spare(before, row) for number, row in rows.items() if number in before.keep]
    rises = any(fmean(new - old for _, old, new in row) > 0 for name, row in rows.items() if name not in before.keep)
    if any(one.high < 0 for one in over) or not rises:
        return "does not hold"
    return "holds" if all(one.low >= 0 for one in over) else "undecided"


def spare(before: Before, rows: Sequence[tuple[int, float, float]]) -> Interval:
    """How far a number lies above what it may fall to, over seeds."""
    return mean([new - old + before.bar * abs(old) for _, old, new in rows], [seed for seed, *_ in rows])
