"""Experiments at work: seed by seed, cells are trained, then judged, then draw what else is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from studio import compare_scoring
from studio.compare_cells import Cell
from studio.compare_scoring import FOLDER, Part
from studio.compare_workers import Outcome

if TYPE_CHECKING:
    from studio.compare import Effort, Study

DRAWER = "studio.methods_draw"  # `python -m` this, for draws
Train = Callable[["Study", "Effort", Sequence[Cell]], None]


def run(study: Study, effort: Effort, train: Train) -> None:
    """Every seed in turn, so that after the first everything has been seen once."""
    for seed in dict.fromkeys(cell.seed for cell in study.cells):
        train(study, effort, [cell for cell in study.cells if cell.seed == seed])
        if not study.comparison.evaluation.skip:
            judge(study, effort, [cell for cell in study.finished if cell.seed == seed])
    if not study.comparison.evaluation.skip:
        draw(study, effort)
    done, failed = len(study.finished), [one for one in study.outcomes.values() if one.status == "failed"]
    effort.show.message(f"{done} of {len(study.cells)} cells are done, {len(failed)} failed, in {study.folder}", "done")
    for one in (*failed, *study.unjudged.values()):
        effort.show.message(f"failed: {one.name}: {one.reason}", "failed")


def judge(study: Study, effort: Effort, cells: Sequence[Cell]) -> None:
    """The cells' numbers: one process per subject, or, where that fails, one per cell."""
    judging = study.comparison.evaluation
    again: list[Part] = []
    for tried, parts in enumerate((grouped(study, effort, cells), again)):
        failed: dict[str, Outcome] = {}
        run_all(effort, parts, failed)
        for part in parts:
            if part.task.name not in failed:
                compare_scoring.stamped(part)
            elif not tried:
                again += compare_scoring.parts(part.cells, judging, study.folder, True, effort.like)
            else:
                study.unjudged[part.task.name] = failed[part.task.name]


def run_all(effort: Effort, parts: Sequence[Part], failed: dict[str, Outcome]) -> None:
    """Those that are not known. failed: filled."""

    def heard(outcome: Outcome) -> None:
        if outcome.status != "done":
            failed[outcome.name] = outcome

    effort.run([part.task for part in parts if not compare_scoring.known(part)], {}, heard)


def grouped(study: Study, effort: Effort, cells: Sequence[Cell]) -> list[Part]:
    """The cells by subject and pictures: those are held against the same base model's pictures."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(shared(cell), []).append(cell)
    judging, folder = study.comparison.evaluation, study.folder / FOLDER
    return [
        compare_scoring.part(f"{name}.{FOLDER}", group, judging, folder / name, effort.like)
        for name, group in groups.items()
    ]


def draw(study: Study, effort: Effort) -> None:
    """What the experiments' draws ask for, a process per experiment and seed; it keeps what is there."""
    tasks = [
        replace(effort.like, name=f"{one.name}-seed-{seed}.draws", module=DRAWER, timeout=0.0,
                words=(str(study.file.absolute()), str(study.folder.parent), one.name, str(seed)))
        for one in study.comparison.experiments if one.draw for seed in one.seeds or study.comparison.seeds
    ]  # fmt: skip

    def heard(outcome: Outcome) -> None:
        if outcome.status != "done":
            study.unjudged[outcome.name] = outcome

    effort.run(tasks, {}, heard)


def place(cell: Cell) -> list[str]:
    """Where a cell's evaluation may lie, the likeliest first; relative to the comparison."""
    return [f"{FOLDER}/{shared(cell)}", f"{cell.run.folder.name}/{FOLDER}"]


def shared(cell: Cell) -> str:
    """The folder of the evaluation that a cell shares with others."""
    return f"{cell.subject}{f'-{cell.pictures}' if cell.pictures else ''}-seed-{cell.seed}"
