"""A job and its process: started in a session of its own, found again by any server, judged by what it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil

from studio.compare_workers import SAID, STOPPED, found, why
from studio.events import Event
from studio.pipelines.errors import UsageError
from studio.secrets import redact
from studio.store import Run

End = Literal["done", "failed", "stopped", "cancelled"]
State = Literal["waiting", "running", "stopping", End]
STARTING = -1  # the number of a process that a supervisor is just starting
RESTARTS = 3  # times that a job is started again by itself without a newly saved step
DRIFT = 2.0  # seconds by which the system's clock may have been set meanwhile
MOST = 2**20  # bytes of a log's end that are read
GONE = "its process is gone without a word: the machine or the server's container was restarted, or it was killed"
CHILDREN: dict[tuple[int, float], subprocess.Popen[bytes]] = {}  # only the process that started one learns its code


@dataclass(frozen=True)
class Job:
    """One command of the queue, as its file has it.

    words: after `python -m MODULE`; folder: the run's, where its log goes; order: lower is sooner; asked, began, ended,
    stop: unix seconds (stop: when somebody asked for it); lane: which place of the machine it takes; pid, born: its
    process and that one's birth; offset: bytes of the log that were there before; restarts: by itself, since the step
    `saved`; urged: 1 when SIGTERM was sent, 2 when it was killed; end: how it ended, '' before that.
    """

    id: str
    words: tuple[str, ...]
    folder: str
    module: str = "studio"
    run: str = ""
    owner: str = ""
    order: float = 0.0
    asked: float = 0.0
    lane: int = -1
    pid: int = 0
    born: float = 0.0
    began: float = 0.0
    offset: int = 0
    restarts: int = 0
    saved: int = 0
    stop: float = 0.0
    urged: int = 0
    end: End | Literal[""] = ""
    code: int | None = None
    reason: str = ""
    ended: float = 0.0

    @property
    def state(self) -> State:
        """As the file says; `jobs_process.settled` first makes it what is true."""
        if self.end:
            return self.end
        return "waiting" if not self.pid else "stopping" if self.stop else "running"

    @property
    def name(self) -> str:
        """What it does, in a word: train, evaluate, sample, draw_now."""
        return self.words[0] if self.module == "studio" and self.words else self.module.rpartition(".")[2]

    @property
    def trains(self) -> bool:
        """Whether it is a run's training, which listens to a file called `stop` and goes on from its checkpoints."""
        return self.name == "train"

    @property
    def log(self) -> Path:
        """What its process says: job.log of its run, or a file of its own beside another command's."""
        if not self.run:
            return Path(self.folder) / f"{self.id}.log"
        return Path(self.folder) / ("job.log" if self.trains else f"job-{self.name}.log")

    @property
    def stop_file(self) -> Path | None:
        """The file that asks a training to stop; other commands listen to signals only."""
        return Path(self.folder) / "stop" if self.trains else None

    def ends(
        self, end: Literal["done", "failed", "stopped", "cancelled"], reason: str = "", code: int | None = None
    ) -> Job:
        """The job, ended now."""
        return replace(self, end=end, reason=redact(reason), code=code, ended=time.time(), lane=-1)


def begin(job: Job, program: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> Job:
    """Starts a job's process in a session of its own, its words going to the log. Raises UsageError, OSError."""
    if not Path(job.folder).is_dir() or (job.trains and job.run and not Path(job.words[1]).is_file()):
        raise UsageError(f"{job.folder} was removed while the job waited; start the run again")
    if job.stop_file is not None:
        job.stop_file.unlink(missing_ok=True)  # an earlier stop's, which is over
    with job.log.open("ab") as log:
        offset = log.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            [*program, job.module, *job.words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
            env={**os.environ, **found(), **environment, "PYTHONSAFEPATH": "1"}, start_new_session=True,
        )  # fmt: skip
    try:
        born = psutil.Process(child.pid).create_time()
    except psutil.Error:
        born = time.time()
    CHILDREN[child.pid, born] = child
    return replace(job, pid=child.pid, born=born, began=time.time(), offset=offset, saved=done_steps(job))


def process(job: Job) -> psutil.Process | None:
    """A job's living process; None when it has ended, even where another one has its number now."""
    try:
        seen = psutil.Process(job.pid)
        alive = abs(seen.create_time() - job.born) < DRIFT and seen.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return None
    return seen if alive else None


def alive(job: Job) -> bool:
    """Whether a job's process lives. Of our own children only the exit code tells: a zombie still has one to give."""
    child = CHILDREN.get((job.pid, job.born))
    return process(job) is not None if child is None else child.poll() is None


def adopted(job: Job, program: Sequence[str]) -> Job:
    """A job whose supervisor ended while it started it: with the process it has, or waiting again."""
    words = [*program, job.module, *job.words]
    for seen in psutil.process_iter(["cmdline", "create_time"]):
        if seen.info["cmdline"] == words:
            return replace(job, pid=seen.pid, born=seen.info["create_time"])
    return replace(job, pid=0, lane=-1)


def settled(job: Job) -> Job:
    """The job as it is now: still itself while its process lives, else ended, or waiting to be started again."""
    if job.end or job.pid in (0, STARTING) or alive(job):
        return job
    child = CHILDREN.get((job.pid, job.born))
    code = None if child is None else child.returncode
    end, reason = verdict(job, code, said(job))
    if end == "again":
        return again(job, reason)
    ended = job.log.stat().st_mtime if job.log.is_file() else job.began
    return replace(job.ends(end, reason, code), ended=ended)


def again(job: Job, reason: str) -> Job:
    """A job that ended without being asked to: waiting in its old place, or failed after too many starts."""
    saved = done_steps(job)
    restarts = 1 if saved > job.saved else job.restarts + 1
    if restarts > RESTARTS:
        return job.ends("failed", f"{reason}; it was started again {RESTARTS} times without getting further", job.code)
    told = f"{reason}; it goes on by itself ({restarts} of {RESTARTS})"
    return replace(job, pid=0, born=0.0, lane=-1, restarts=restarts, saved=saved, reason=redact(told))


def verdict(job: Job, code: int | None, words: str) -> tuple[End | Literal["again"], str]:
    """How a job ended, and why. code: None where no server was there to see it; words: what it said this time."""
    last = ending(words)
    killed = code is not None and code < 0
    if code == 0 or (code is None and (last.event == "done" or finished(job))):
        return "done", ""
    message = str(last.get("message") or "")
    asked = job.stop > 0 or (job.stop_file is not None and job.stop_file.exists())
    if asked and (code is None or killed or code == STOPPED) and last.event != "failed":
        return "stopped", message or ("it did not end when asked, and was killed" if job.urged > 1 else "as asked")
    if code == STOPPED:
        return "stopped", message or why(code, words)
    if code is not None and not killed:
        return "failed", message if last.event == "failed" else why(code, words)
    if last.event == "failed" or (code is None and SAID in words):
        return "failed", message or why(1, words)
    return "again", why(code, words) if killed and code is not None else GONE


def said(job: Job) -> str:
    """What a job's process has said since it began, its last megabyte."""
    try:
        with job.log.open("rb") as log:
            log.seek(max(job.offset, log.seek(0, os.SEEK_END) - MOST))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""


def ending(words: str) -> Event:
    """The last event that says how it ended; one without a name where there is none."""
    for line in reversed(words.splitlines()):
        if line.startswith("{"):
            with suppress(ValueError, TypeError):
                event = Event.read(line)
                if event.event in ("done", "stopped", "failed"):
                    return event
    return Event("")


def finished(job: Job) -> bool:
    """Whether the run of a training job is finished."""
    try:
        return job.trains and bool(job.run) and Run(Path(job.folder)).state() == "done"
    except UsageError:
        return False


def done_steps(job: Job) -> int:
    """How many steps of a job's run are saved; 0 for another command."""
    return Run(Path(job.folder)).done_steps() if job.trains and job.run else 0


def end(job: Job, kill: bool) -> None:
    """Asks a job's process to end, or kills it with everything it has started."""
    seen = process(job)
    if seen is None:
        return
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        if not kill:
            seen.terminate()
        elif hasattr(os, "killpg"):
            os.killpg(job.pid, signal.SIGKILL)
        else:
            for one in (*seen.children(recursive=True), seen):
                one.kill()
