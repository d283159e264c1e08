"""What the queue says of each run, and the runs that nothing was made of because they never began."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from studio.pipelines.errors import StudioError
from studio.ui.jobs import Queue
from studio.ui.library import ALIVE, BUSY, Stamp, Told, never, stamped
from studio.ui.library_trash import throw

MADE = (".safetensors", ".png")
NAMES = {"evaluate": "evaluation", "sample": "drawing", "draw_now": "drawing"}


def told(runs: Path) -> dict[str, Told]:
    """By run: the state of its newest training, and the other jobs that have not ended, in words."""
    found: dict[str, Told] = {}
    for job in sorted(Queue(runs).jobs(), key=lambda job: job.asked):
        training, other = found.get(job.run, ("", ""))
        if job.trains:
            training = job.state
        elif not job.end:
            other = f"{NAMES.get(job.name, job.name)} {job.state}"
        if job.run:
            found[job.run] = (training, other)
    return found


def idle(found: Sequence[tuple[Path, Stamp]], jobs: Mapping[str, Told], now: float | None = None) -> list[str]:
    """The runs that have a config and nothing else: no job of theirs is left, and nobody has just made them."""
    late = (time.time() if now is None else now) - ALIVE
    found = [(folder, at) for folder, at in found if never(at) and at[0][1] / 1e9 < late]
    free = [folder for folder, _ in found if not (job := jobs.get(folder.name, ("", "")))[1] and job[0] not in BUSY]
    return [folder.name for folder in free if bare(folder)]


def bare(folder: Path) -> bool:
    """Whether no checkpoint, picture or adapter is in a folder."""
    try:
        return not any(one.is_dir() or one.suffix in MADE for one in folder.iterdir())
    except OSError:
        return False


def sweep(runs: Path) -> tuple[list[str], list[str]]:
    """Moves the runs that never began to the trash, from where they come back: the names of those that went, and
    why others stayed.
    """
    gone, kept = [], []
    for name in idle(stamped(runs), told(runs)):
        try:
            throw(runs, name)
            gone.append(name)
        except StudioError as error:
            kept.append(str(error))
    return gone, kept
