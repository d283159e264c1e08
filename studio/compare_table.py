"""The result of a comparison: a row per setting over its seeds, every number with spread and interval, and its cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from studio.compare_cells import Cell
from studio.compare_cost import Price
from studio.compare_workers import Outcome
from studio.evaluation import bootstrap
from studio.evaluation.records import Evaluation, Score

NAN = float("nan")
Place = tuple[str, str, int]  # of a picture: set, template, seed
Key = tuple[str, str, str]  # of a number: name, group, set


@dataclass(frozen=True)
class Number:
    """One number of one setting. value: mean over the runs' seeds; spread: standard deviation over them, NaN for one;
    low, high: 95 % interval over prompts; base: the base model's value; ahead, ahead_low, ahead_high: paired difference
    to the first setting's, by prompt and picture seed, None for the first itself.
    """

    name: str
    set: str
    better: str
    value: float
    spread: float
    low: float
    high: float
    runs: int
    base: float | None = None
    ahead: float | None = None
    ahead_low: float | None = None
    ahead_high: float | None = None


@dataclass(frozen=True)
class Row:
    """One setting. cells: names of the finished runs; missing: name -> why; costs are means over finished runs.

    seconds: of the training loop; total: of everything the processes did, failed attempts included.
    """

    setting: str
    trainer: str
    varied: Mapping[str, Any]
    cells: tuple[str, ...]
    missing: Mapping[str, str]
    steps: int
    samples: float
    calls: float | None
    seconds: float
    total: float
    numbers: Mapping[Key, Number] = field(default_factory=dict)


def rows(
    cells: Sequence[Cell],
    outcomes: Mapping[str, Outcome],
    prices: Mapping[str, Price],
    seconds: Mapping[str, float],
    evaluation: Evaluation,
) -> list[Row]:
    """A row per setting, in the config's order; failed ones too. seconds: of each finished cell's training loop."""
    found: list[Row] = []
    for setting in dict.fromkeys(cell.setting for cell in cells):
        mine = [cell for cell in cells if cell.setting == setting]
        done = [cell for cell in mine if outcomes[cell.name].status == "done"]
        price, first = prices.get(setting, Price(0)), mine[0]
        row = Row(
            setting, first.trainer, first.varied, tuple(cell.name for cell in done),
            {cell.name: outcomes[cell.name].reason for cell in mine if cell not in done},
            first.steps, price.samples * first.steps, None if price.calls is None else price.calls * first.steps,
            mean(seconds[cell.name] for cell in done if cell.name in seconds),
            mean(outcomes[cell.name].seconds for cell in done),
        )  # fmt: skip
        found.append(replace(row, numbers=numbers(evaluation, row.cells)))
    return [ahead(row, evaluation, found) for row in found]


def keys(evaluation: Evaluation) -> list[Key]:
    """Every number that was taken, in order."""
    return list(dict.fromkeys(key(score) for score in evaluation.scores))


def key(score: Score) -> Key:
    """What a number is: only numbers of one key are averaged or subtracted."""
    return score.about.name, score.about.group, score.set


def numbers(evaluation: Evaluation, cells: Sequence[str]) -> dict[Key, Number]:
    """Every number of one setting, over its runs."""
    found: dict[Key, Number] = {}
    for one in keys(evaluation):
        scores = taken(evaluation, one, cells)
        values = [score.value for score in scores if math.isfinite(score.value)]
        if not values:
            continue
        about, bases = scores[0].about, [score.base for score in scores if score.base is not None]
        seen = interval(placed(evaluation, scores)) if about.per != "set" else (NAN, NAN)
        spread = statistics.stdev(values) if len(values) > 1 else NAN
        found[one] = Number(
            about.name, one[2], about.better, mean(values), spread, *seen, len(values), bases[0] if bases else None
        )
    return found


def taken(evaluation: Evaluation, one: Key, cells: Sequence[str]) -> list[Score]:
    """The scores of one key, of these cells."""
    return [score for score in evaluation.scores if key(score) == one and score.source in cells]


def placed(evaluation: Evaluation, scores: Sequence[Score]) -> dict[Place, float]:
    """The mean over runs of every picture's value, for those that all runs have."""
    runs: list[dict[Place, float]] = []
    for score in scores:
        pictures = [evaluation.pictures[number] for number in score.pictures]
        values = zip(pictures, score.values, strict=False)
        runs.append({(one.set, one.template, one.seed): value for one, value in values if math.isfinite(value)})
    common = [place for place in (runs[0] if runs else {}) if all(place in run for run in runs)]
    return {place: mean(run[place] for run in runs) for place in common}


def interval(values: Mapping[Place, float]) -> tuple[float, float]:
    """95 % over prompts."""
    seen = bootstrap.interval(list(values.values()), [place[:2] for place in values])
    return seen.low, seen.high


def ahead(row: Row, evaluation: Evaluation, found: Sequence[Row]) -> Row:
    """The row with its paired differences to the first row that has the number."""
    changed: dict[Key, Number] = dict(row.numbers)
    for one, number in row.numbers.items():
        first = next(other for other in found if one in other.numbers)
        if first is row or first.setting == row.setting:
            continue
        difference, low, high = number.value - first.numbers[one].value, NAN, NAN
        mine, theirs = (placed(evaluation, taken(evaluation, one, other.cells)) for other in (row, first))
        if pairs := {place: mine[place] - theirs[place] for place in mine if place in theirs}:
            seen = bootstrap.interval(list(pairs.values()), [place[:2] for place in pairs])
            difference, low, high = seen.value, seen.low, seen.high
        changed[one] = replace(number, ahead=difference, ahead_low=low, ahead_high=high)
    return replace(row, numbers=changed)


def mean(values: Iterable[float]) -> float:
    """NaN for none."""
    kept = list(values)
    return math.fsum(kept) / len(kept) if kept else NAN
