"""What a run is doing, from the queue's word, its lock and its last event; and what can be done with it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from filelock import FileLock, Timeout

from studio import checkpoints
from studio.store import Run
from studio.ui.jobs_process import Job
from studio.ui.live import Live

Doing = Literal["new", "waiting", "cancelled", "running", "stopping", "done", "stopped", "failed", "interrupted"]
AT_WORK = ("running", "stopping")
ENDS: dict[str, Doing] = {"done": "done", "stopped": "stopped", "failed": "failed"}
FRESH = 3.0  # seconds after an event in which nobody needs to ask whether its process lives


@dataclass(frozen=True)
class Buttons:
    """Which buttons do something now."""

    stop: bool
    resume: bool
    sample: bool
    back: bool


def held(run: Run) -> bool:
    """Whether a process trains in the run's folder, whoever started it: its lock is asked for and given back."""
    file = run.folder / ".lock"
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that may only be read
        return False


def doing(live: Live, job: Job | None = None, now: float | None = None) -> Doing:
    """What the run does. job: the newest one that trains it, None where nobody started it from the page."""
    run = live.run
    if job is not None and (job.state == "waiting" or job.state == "stopping"):
        return job.state
    if job is not None and job.state == "running":
        if live.end is not None and live.end.event == "done" and live.heard >= job.began:
            return "done"  # only its process has not ended yet
        return "stopping" if run.stop_file.is_file() else "running"
    failed = job is not None and job.end == "failed" and job.ended > live.heard  # perhaps before it could say anything
    if live.end is not None:
        return "failed" if failed else ENDS[live.end.event]
    now = time.time() if now is None else now
    if abs(now - live.heard) < FRESH or held(run):
        return "stopping" if run.stop_file.is_file() else "running"
    if failed:
        return "failed"
    if live.heard > 0 or run.checkpoints.is_dir():
        return "interrupted"
    return "cancelled" if job is not None and job.end == "cancelled" else "new"


def buttons(live: Live, what: Doing, writable: bool = True) -> Buttons:
    """Stop while it works or waits, resume where it is not finished, sample where there are
    weights to draw with, back where a guard has looked."""
    idle = what not in (*AT_WORK, "waiting")
    weights = bool(checkpoints.steps(live.run.checkpoints))
    course = live.numbers.course()
    ahead = course is not None and course.best is not None and course.back is None  # of what it may go back to
    return Buttons(
        stop=writable and what == "running",
        resume=writable and what in ("new", "cancelled", "stopped", "failed", "interrupted"),
        sample=writable and (what == "running" or (weights and idle)),
        back=writable and idle and weights and ahead,
    )
