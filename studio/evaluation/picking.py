"""`studio evaluate --pick`: runs' recommended checkpoints made their adapters, after everything was checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studio import choice_file
from studio.evaluation.targets import Target
from studio.journal import Journal
from studio.pipelines.errors import UsageError
from studio.store import Run, Store


def check(sources: Sequence[str], runs: Path) -> None:
    """Raises UsageError for a file, and for a run without a recommended checkpoint that is still there."""
    from studio.choice_weights import usable

    for name in sources:
        if Path(name).expanduser().is_file():
            raise UsageError(f"--pick chooses among a run's checkpoints, and {name} is a file: leave one of them out")
        run = Store(runs).open(name)
        step = int(choice_file.recommended(run.folder)["step"])
        if step not in usable(run.checkpoints):
            raise UsageError(f"{name}: the recommended checkpoint, step {step}, is not in {run.checkpoints} any more")


def pick(found: Sequence[Target], journal: Journal) -> None:
    """Makes the recommended checkpoint of every run its adapter, and says which it is."""
    from studio import choice_pick

    journal.enter("pick")
    for run in {one.run.folder: one.run for one in found if one.run is not None}.values():
        choice_pick.pick(run)
        journal("message", message=f"{run.name}: its adapter is {words(run)} now")


def words(run: Run) -> str:
    """The recommended step and strength."""
    said = choice_file.recommended(run.folder)
    return f"step {int(said['step'])} at strength {float(said['strength']):g}"
