"""Evaluations as jobs of the queue: the same `studio evaluate` that a person would type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studio import checkpoints
from studio.pipelines.errors import UsageError
from studio.store import Run, Store
from studio.ui.jobs import Queue
from studio.ui.library import run_of
from studio.ui.library_export import adapters
from studio.ui.side_choice import read

COMMAND = "evaluate"


def offered(runs: Path) -> list[str]:
    """The runs that there is something to judge of, the newest first: weights, or the scores of a run."""
    return [run.name for run in Store(runs).list() if judgeable(run)]


def judgeable(run: Run) -> bool:
    """Whether a run has an adapter, a checkpoint or scores. One that never began has none."""
    return bool(adapters(run) or checkpoints.steps(run.checkpoints)) or (run.folder / "scores.json").is_file()


def evaluate(runs: Path, names: Sequence[str], owner: str = "", quick: bool = False, pick: bool = False) -> str:
    """Puts an evaluation of each run that can be evaluated into the queue; what was done and left out, in words.

    pick: first the recommended checkpoint becomes the adapter. Raises UsageError where none can be.
    """
    found = {run: lacking(run, pick) for run in (run_of(runs, name) for name in names)}
    able = [run for run, why in found.items() if not why]
    out = [f"{run.name} {why}" for run, why in found.items() if why]
    if not able:
        raise UsageError("nothing to evaluate: " + "; ".join(out))
    for run in able:
        words = [COMMAND, str(run.folder), "--runs", str(runs.absolute()), "--json"]
        Queue(runs).command([*words, *["--quick"] * quick, *["--pick"] * pick], run.folder, owner)
    listed = ", ".join(run.name for run in able)
    turn = "Its turn is under Watch, Queue; the scores come here by themselves."
    return " ".join([f"In the queue: the evaluation of {listed}. {turn}", *(f"Left out: {one}." for one in out)])


def lacking(run: Run, pick: bool) -> str:
    """Why a run cannot be evaluated, with what to do; "" where it can."""
    if not adapters(run):
        return "has no adapter yet (it comes when the run is done; resume it under Watch)"
    if pick and not read(run.folder).reason:
        return "has no recommended checkpoint (evaluate it without, or save checkpoints)"
    return ""


def missing(runs: Path, names: Sequence[str]) -> str:
    """Which of the runs an evaluation leaves out, and why; "" where it takes all."""
    found = {run.name: lacking(run, False) for run in map(Run, (runs / name for name in names))}
    return " ".join(f"An evaluation leaves out {name}: it {why}." for name, why in found.items() if why)


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
