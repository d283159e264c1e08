"""What a comparison of experiments measured, picture by picture: the judges' numbers by table row and place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from studio import compare_rounds, compare_scoring
from studio.evaluation.records import Evaluation

if TYPE_CHECKING:
    from studio.compare import Study

TEXT, CLIP_T, IDENTITY, TRAITS, DRIFT = "prompt-accuracy", "embedded-prompt", "embedded-subject", "identity", "drift"
BOTH = "VLHI"  # prompt accuracy and identity, each as a share of its range among an experiment's rows
NAMES = {
    TEXT: "prompt accuracy", CLIP_T: "CLIP-T", IDENTITY: "identity", TRAITS: "identity by traits", DRIFT: "class drift",
    BOTH: "text + identity",
}  # fmt: skip
SILENT = "class"  # the set without the trigger
DRAWS = "draws"  # the folder of what was drawn without training


class Place(NamedTuple):
    """What a picture of one row shares with one of another: they are paired by it. seed: of the run."""

    subject: str
    seed: int
    set: str
    template: str
    picture: int


Values = dict[Place, float]
Numbers = dict[str, Values]  # by number
Table = dict[str, Numbers]  # by row of an experiment


def tables(study: Study) -> dict[str, Table]:
    """Every experiment's numbers, of those cells that are evaluated."""
    found: dict[str, Table] = {experiment.name: {} for experiment in study.comparison.experiments}
    apart = [one.name for one in study.comparison.experiments if one.prompts]  # no number of the usual prompts there
    for cell in (cell for cell in study.cells if cell.name not in study.refused):
        for place in compare_rounds.place(cell):
            if numbers := of_cell(study.folder / place / compare_scoring.FILE, cell.name, cell.subject, cell.seed):
                for experiment, label in cell.uses:
                    if experiment not in apart:
                        add(found[experiment], label, numbers)
                break
    for name, table in found.items():
        for file in sorted((study.folder / DRAWS).glob(f"{name}-seed-*.json")):
            for label, numbers in drawn(file).items():
                add(table, label, numbers)
        combine(table)
    of_cell.cache_clear()
    read.cache_clear()
    return found


@lru_cache(maxsize=4096)
def of_cell(file: Path, name: str, subject: str, seed: int) -> Numbers:
    """One cell's numbers by place; {} where its evaluation is not there."""
    evaluation, found = read(file), Numbers()
    for score in evaluation.scores if evaluation else ():
        if score.source == name and score.set and score.about.per != "set":
            values = found.setdefault(score.about.name, {})
            for row, value in zip(score.pictures, score.values, strict=True):
                if evaluation and math.isfinite(value):
                    one = evaluation.pictures[row]
                    values[Place(subject, seed, one.set, one.template, one.seed)] = value
    return found


@lru_cache(maxsize=64)
def read(file: Path) -> Evaluation | None:
    """An evaluation; None where there is none, or half of one."""
    try:
        return Evaluation.read(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def drawn(file: Path) -> Table:
    """What `methods_draw` wrote; {} where it has not been."""
    try:
        parts = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    found: Table = {}
    for label, number, place, value in (row for part in parts.values() for row in part["rows"]):
        found.setdefault(label, {}).setdefault(number, {})[Place(*place)] = value
    return found


def add(table: Table, label: str, numbers: Mapping[str, Values]) -> None:
    """More places of one row."""
    for number, values in numbers.items():
        table.setdefault(label, {}).setdefault(number, {}).update(values)


def combine(table: Table) -> None:
    """Add `BOTH`: the paper of SaRA sums prompt and picture measures, each scaled to 0..1 over the rows compared."""
    spans = {}
    for number in (TEXT, IDENTITY):
        means = [fmean(called(row[number]).values()) for row in table.values() if called(row.get(number, {}))]
        if len(means) < 2 or max(means) == min(means):
            return
        spans[number] = min(means), max(means) - min(means)
    for numbers in table.values():
        text, identity = (called(numbers.get(number, {})) for number in (TEXT, IDENTITY))
        (low, wide), (least, broad) = spans[TEXT], spans[IDENTITY]
        numbers[BOTH] = {p: (text[p] - low) / wide + (identity[p] - least) / broad for p in text if p in identity}


def called(values: Values, sets: Sequence[str] = ()) -> Values:
    """Those of some sets, by default of all that call the subject."""
    return {place: value for place, value in values.items() if (place.set in sets if sets else place.set != SILENT)}
