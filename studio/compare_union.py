"""The cells of experiments: one per (trainer, settings, subject, pictures, seed), however many experiments show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio import subjects
from studio.compare_cells import MOST, Cell, digest, nested, refuse_key
from studio.compare_config import Comparison
from studio.compare_experiments import Experiment, Method, rows
from studio.compare_parse import flatten
from studio.config import check_paths, make, merge
from studio.pipelines.errors import UsageError
from studio.registry import nearest


def cells(comparison: Comparison, runs: Path, file: Path) -> list[Cell]:
    """All cells in the order in which they are trained: every experiment with one seed, then the next seed.

    Raises UsageError for settings that a trainer does not have and for too many cells, DataError for an unknown
    subject.
    """
    found: dict[str, Cell] = {}
    seeds = list(dict.fromkeys([*comparison.seeds, *(s for one in comparison.experiments for s in one.seeds)]))
    for seed in seeds:
        for experiment in comparison.experiments:
            if seed in (experiment.seeds or comparison.seeds):
                for cell in of_experiment(comparison, experiment, seed, runs, file):
                    before = found.get(cell.name, replace(cell, uses=()))
                    found[cell.name] = replace(before, uses=(*before.uses, *cell.uses))
    if len(found) > MOST:
        raise UsageError(f"{file}: {len(found)} cells; at most {MOST}")
    return list(found.values())


def of_experiment(comparison: Comparison, experiment: Experiment, seed: int, runs: Path, file: Path) -> list[Cell]:
    """One experiment's cells with one seed. Raises UsageError where nothing names the subjects."""
    among = experiment.subjects or comparison.subjects
    if not among:
        raise UsageError(f"{file}: experiment '{experiment.name}': name its subjects, or subjects = [...] at the top")
    return [
        cell(comparison, experiment, subject, row, seed, runs, file) for subject in among for row in rows(experiment)
    ]


def cell(
    comparison: Comparison,
    experiment: Experiment,
    subject: str,
    row: tuple[str, Method, dict[str, Any]],
    seed: int,
    runs: Path,
    file: Path,
) -> Cell:
    """One row of the experiment's table on one subject with one seed."""
    label, method, varied = row
    where = f"experiment '{experiment.name}', {method.name}"
    for key in varied:
        refuse_key(key, where, method.trainer, [], file)
    said = merge(merge(comparison.base, experiment.settings), method.settings)
    for key, value in varied.items():
        said = merge(said, nested(key, value))
    own = {"pictures": experiment.pictures, "steps": method.steps or experiment.steps}
    named = {**flatten(merge(experiment.settings, method.settings)), **varied, **{k: v for k, v in own.items() if v}}
    name = f"{subject}-{method.trainer}-{identity([method.trainer, comparison.model, flatten(said), own])}-seed-{seed}"
    settings = merge(said, {"data": pictures(subject, experiment.pictures, said.get("data", {}))})
    flags = {"model": comparison.model, "run": name, "runs": runs, "seed": seed, "settings": settings}
    try:
        config = make(method.trainer, flags=flags, file=str(file))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    check_paths(file, config, lambda flag: "")
    config = subjects.resolve(config).resolved(name, runs)
    uses = ((experiment.name, label),)
    return Cell(name, method.trainer, named, config, subject, own["pictures"], own["steps"], uses)


def identity(what: Any) -> str:
    """Eight letters for what a cell's config file says: a new default of a setting renames nothing."""
    return digest(json.dumps(what, sort_keys=True, default=str))


def pictures(subject: str, count: int, data: Mapping[str, Any]) -> dict[str, Any]:
    """The data's settings: all of a subject's pictures, or the first alone, which keeps its class word."""
    if not count:
        return {"folder": f"{subjects.SCHEME}{subject}"}
    place = subjects.folder(subject)
    word = data.get("class_word") or json.loads((place / "subject.json").read_text("utf-8"))["class_word"]
    return {"folder": sorted((place / "train").glob("*.png"))[0], "class_word": word}


def labels(comparison: Comparison, name: str) -> list[str]:
    """The rows of an experiment's table; with own prompts, the draws alone. Raises UsageError for an unknown one."""
    for experiment in comparison.experiments:
        if experiment.name == name:
            trained = [] if experiment.prompts else [label for label, _, _ in rows(experiment)]
            return trained + [draw.name for draw in experiment.draw]
    known = [experiment.name for experiment in comparison.experiments]
    raise UsageError(f"there is no experiment '{name}'{nearest(name, known)}; there are {', '.join(known)}")
