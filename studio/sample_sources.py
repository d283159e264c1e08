"""What `studio sample` and the page draw with, by its name: a run, RUN@STEP, an adapter's file. Never imports torch."""

from __future__ import annotations

import re
from pathlib import Path

from studio import checkpoints
from studio.pipelines import drawing
from studio.pipelines.errors import UsageError
from studio.store import Run, Store

ADAPTER = "adapter.safetensors"
AT = re.compile(r"(?P<run>.+)@(?P<step>\d{1,18}|latest)")
LISTED = 12  # newest checkpoints that a message names


def file_of(name: str, runs: Path) -> Path | None:
    """The adapter file that a source names: itself, a run's, or the one that comes with the studio; None for `base`.

    Raises UsageError for a name that is none of these.
    """
    if name == "base":
        return None
    path = drawing.place(name)
    if path.is_file():
        return path
    if name == drawing.EMBEDDED:
        raise UsageError(f"{name}: {path} is not there; install the studio again")
    run = Store(runs).open(name)
    if not (run.folder / ADAPTER).is_file():
        steps = list(checkpoints.steps(run.checkpoints))
        instead = f", and {run.name}@{steps[-1]} draws with its newest checkpoint" if steps else ""
        raise UsageError(
            f"the run '{run.name}' has no {ADAPTER} yet: `studio train` of its run.toml goes on with it{instead}"
        )
    return run.folder / ADAPTER


def checkpoint(name: str, runs: Path) -> tuple[Run, int] | None:
    """The run and the step that RUN@STEP or RUN@latest names; None for a name of another form. Raises UsageError."""
    if not (match := AT.fullmatch(name)) or drawing.place(name).is_file():
        return None
    run = Store(runs).open(match["run"])
    known = list(checkpoints.steps(run.checkpoints))
    if not known:
        raise UsageError(f"{name}: the run has no checkpoint yet; --save-every says how often one is made")
    step = known[-1] if match["step"] == "latest" else int(match["step"])
    if step not in known:
        there = ", ".join(map(str, known[-LISTED:]))
        raise UsageError(f"{name}: the run has no checkpoint of that step; it has {there}")
    return run, step


def check(name: str, runs: Path) -> None:
    """UsageError for a source that is not there."""
    if checkpoint(name, runs) is None:
        file_of(name, runs)
