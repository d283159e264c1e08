"""The evaluation of a comparison's finished cells: the same prompts and seeds for all, and the parts put together."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studio import subjects
from studio.compare_cells import Cell
from studio.compare_config import Judging
from studio.compare_workers import Task
from studio.evaluation.records import Evaluation

FOLDER, FILE, STAMP = "evaluation", "evaluation.json", "words.json"


@dataclass(frozen=True)
class Part:
    """An evaluation of some cells. out: its folder."""

    task: Task
    out: Path
    cells: tuple[Cell, ...]


def parts(cells: Sequence[Cell], judging: Judging, folder: Path, alone: bool, like: Task) -> list[Part]:
    """What evaluates the cells: one process, so that the base model's pictures are drawn once; alone: one per cell.

    like: a task with the same limits.
    """
    if not alone:
        return [part(FOLDER, cells, judging, folder / FOLDER, like)]
    return [part(f"{one.name}.{FOLDER}", [one], judging, None, like) for one in cells]


def part(name: str, group: Sequence[Cell], judging: Judging, out: Path | None, like: Task) -> Part:
    """One process's share. out: None for a folder of its own beside the run's evaluations."""
    place = out or group[0].run.folder / f"{FOLDER}-compare"
    task = replace(like, name=name, words=words(group, judging, place), timeout=like.timeout * len(group))
    return Part(task, place, tuple(group))


def words(cells: Sequence[Cell], judging: Judging, out: Path) -> tuple[str, ...]:
    """The command: what the config leaves empty is left to `studio evaluate`."""
    options: list[str] = ["--out", str(out)]
    for name in ("seeds", "sampler", "steps", "guidance_scale", "kind"):
        options += [f"--{name.replace('_', '-')}", str(value)] if (value := getattr(judging, name)) else []
    for name in ("sets", "scorers"):
        options += [f"--{name}", ",".join(values)] if (values := getattr(judging, name)) else []
    for name in ("prompts", "references"):
        options += [f"--{name}", str(place.absolute())] if (place := getattr(judging, name)) else []
    if cells[0].pictures and judging.references is None:
        options += ["--references", str(subjects.folder(cells[0].subject) / "reference")]  # not the one it learned from
    for setting in judging.option:
        options += ["--option", setting]
    return ("evaluate", *(str(cell.run.folder) for cell in cells), *options, *(["--quick"] * judging.quick), "--json")


def known(part: Part) -> bool:
    """Whether this very evaluation was finished after its cells were."""
    try:
        stamp = json.loads((part.out / STAMP).read_text("utf-8"))
        made = (part.out / FILE).stat().st_mtime
    except (OSError, ValueError):
        return False
    ends = [done.time for cell in part.cells if (done := cell.run.last("done"))]
    return stamp == list(part.task.words) and all(end < made for end in ends)


def stamped(part: Part) -> None:
    """Write down that an evaluation is finished."""
    (part.out / STAMP).write_text(json.dumps(list(part.task.words)) + "\n", "utf-8")


def merged(folders: Sequence[Path], folder: Path) -> Evaluation:
    """Evaluations of the same prompts and seeds as one; files of pictures relative to `folder`.

    A source that was in several, the base model, counts once. Notes of all are kept.
    """
    whole = Evaluation()
    for part in folders:
        add(whole, Evaluation.read(part / FILE), Path(os.path.relpath(part, folder)))
    return whole


def add(whole: Evaluation, part: Evaluation, below: Path) -> None:
    """One more part into the whole. below: its folder, relative to the whole's."""
    there = {source.label for source in whole.sources}
    new = {source.label for source in part.sources} - there
    index: dict[int, int] = {}
    for number, made in enumerate(part.pictures):
        if made.source in new:
            index[number] = len(whole.pictures)
            whole.pictures.append(replace(made, file=(below / made.file).as_posix()))
    whole.sources += [source for source in part.sources if source.label in new]
    whole.scores += [
        replace(score, pictures=tuple(index[number] for number in score.pictures))
        for score in part.scores
        if score.source in new
    ]
    whole.pairs += [replace(pair, picture=index[pair.picture]) for pair in part.pairs if pair.picture in index]
    whole.references = list(dict.fromkeys([*whole.references, *part.references]))
    whole.notes = list(dict.fromkeys([*whole.notes, *part.notes]))
    whole.settings = whole.settings or part.settings
