"""What a visitor can ask of a watched run: stop, go on, draw now, go back. Each is a file or a job of the queue."""

from __future__ import annotations

from studio import checkpoints
from studio.pipelines.errors import UsageError
from studio.store import Run
from studio.ui.jobs import Queue
from studio.ui.live_state import AT_WORK, Doing


def stop(queue: Queue, run: Run, what: Doing) -> str:
    """Asks the run to save its state and end, whoever started it; what to tell. Raises UsageError when it is idle."""
    job = queue.of(run.name)
    if job is not None and not job.end:
        queue.stop(job.id)
    elif what in AT_WORK:
        run.stop_file.touch()
    else:
        raise UsageError(f"the run '{run.name}' is not at work: there is nothing to stop")
    return f"{run.name} finishes its step, saves and stops; Resume goes on from there"


def resume(queue: Queue, run: Run, owner: str = "") -> str:
    """Puts the run into the queue again; what to tell. Raises UsageError for a finished one."""
    queue.resume(run.name, owner)
    saved = run.done_steps()
    return f"{run.name} goes on from step {saved}" if saved else f"{run.name} starts"


def sample(queue: Queue, run: Run, what: Doing, owner: str = "") -> str:
    """A run at work draws its previews at the step it is at; any other's newest checkpoint draws them. What to tell.

    Raises UsageError where there is nothing to draw with.
    """
    if what in AT_WORK:
        run.sample_file.touch()
        return f"{run.name} draws its previews after the step it is at"
    steps = checkpoints.steps(run.checkpoints)
    if not steps:
        raise UsageError(f"the run '{run.name}' has no checkpoint to draw with yet: resume it first")
    queue.command(("preview", run.name, "--runs", str(run.folder.parent)), run.folder, owner)
    return f"{run.name}: the checkpoint of step {max(steps)} draws as soon as the queue has room"


def back(queue: Queue, run: Run, what: Doing, owner: str = "") -> str:
    """Writes the adapter anew with the weights of the guard's best look; what to tell. Raises UsageError at work."""
    if what in (*AT_WORK, "waiting"):
        raise UsageError(f"the run '{run.name}' is at work: stop it first, then go back")
    queue.command(("rollback", run.name, "--runs", str(run.folder.parent)), run.folder, owner)
    return f"{run.name}: the adapter gets the weights of its best look as soon as the queue has room"
