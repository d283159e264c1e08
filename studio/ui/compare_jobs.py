"""Evaluations as jobs of the queue: the same `studio evaluate` that a person would type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studio.pipelines.errors import UsageError
from studio.ui.jobs import Queue
from studio.ui.library import run_of
from studio.ui.library_export import adapters
from studio.ui.side_choice import read

COMMAND = "evaluate"


def evaluate(runs: Path, names: Sequence[str], owner: str = "", quick: bool = False, pick: bool = False) -> str:
    """Puts an evaluation of each run into the queue; what was done, in words.

    pick: first the recommended checkpoint becomes the adapter. Raises UsageError before anything is queued.
    """
    found = [run_of(runs, name) for name in names]
    for run in found:
        if not adapters(run):
            raise UsageError(f"{run.name} has no adapter yet: it comes when the run is done; resume it under Watch")
        if pick and not read(run.folder).reason:
            raise UsageError(f"{run.name} has no recommended checkpoint: evaluate it without, or save checkpoints")
    for run in found:
        words = [COMMAND, str(run.folder), "--runs", str(runs.absolute()), "--json"]
        Queue(runs).command([*words, *["--quick"] * quick, *["--pick"] * pick], run.folder, owner)
    listed = ", ".join(run.name for run in found)
    return (
        f"In the queue: the evaluation of {listed}. Its turn is under Watch, Queue; the scores come here by themselves."
    )


def states(runs: Path, names: Sequence[str] | None) -> str:
    """What becomes of the evaluations of runs; "" where none was asked for."""
    wanted = set(names or [])
    jobs = [job for job in Queue(runs).jobs() if job.run in wanted and job.words[:1] == (COMMAND,)]
    newest = {job.run: job for job in sorted(jobs, key=lambda job: job.asked)}
    return " ".join(sentence(run, job.state, job.reason) for run, job in sorted(newest.items()) if job.state != "done")


def sentence(run: str, state: str, reason: str) -> str:
    """How one evaluation stands."""
    if state in ("waiting", "running", "stopping"):
        where = "waits in the queue" if state == "waiting" else f"is {state}"
        return f"The evaluation of {run} {where} (Watch, Queue); its numbers appear here by themselves."
    return f"The evaluation of {run} {'was' if state != 'failed' else 'has'} {state}{f': {reason}' if reason else ''}."
