"""Starts what may start, ends what was asked to end: a thread of one server; another takes over when that one ends."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from studio.compare_workers import devices
from studio.disk import make
from studio.pipelines.errors import StudioError
from studio.ui.jobs import FOLDER, Queue
from studio.ui.jobs_process import STARTING, Job, adopted, begin, end, settled

if TYPE_CHECKING:
    from filelock import FileLock

PROGRAM = (sys.executable, "-m")
GPUS = "nvidia[0-9]*"  # the files of a Linux machine's NVIDIA devices
EVERY = 1.0  # seconds between two ticks
log = logging.getLogger("studio.ui")


def gpus_here() -> int:
    """How many GPUs this machine has for us, as far as that can be seen without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return sum(word.strip() not in ("", "-1") for word in visible.split(","))
    return len(list(Path("/dev").glob(GPUS)))


@dataclass
class Supervisor:
    """Works through the queue of `base`, and on a Space through those of its users, who take turns.

    lanes: jobs at once on this machine; gpus: where there are several, each lane sees its own; patience: seconds until
    a job that was asked to stop gets SIGTERM; last: until it is killed; before: called before a training starts;
    problem: why the last tick failed, '' if not.
    """

    base: Path
    lanes: int = 1
    gpus: int = field(default_factory=gpus_here)
    program: Sequence[str] = PROGRAM
    patience: float = 30.0
    last: float = 150.0
    before: Callable[[], object] = lambda: None
    problem: str = field(default="", init=False)
    lock: FileLock | None = field(default=None, init=False)

    def queues(self) -> list[Queue]:
        """Every queue below the base: its own, and those of a Space's users."""
        folders = sorted([*self.base.glob(FOLDER), *self.base.glob(f"users/*/runs/{FOLDER}")])
        return [Queue(folder.parent) for folder in folders]

    def tick(self) -> bool:
        """One look at everything; False while another server works through the queue."""
        if not self.leads():
            return False
        queues = self.queues()
        for queue in queues:
            with queue.alone():
                for job in queue.read():
                    self.look(queue, job)
        while self.start_one(queues):
            pass
        return True

    def leads(self) -> bool:
        """Whether this is the one that works through the queue, until it ends: it alone learns its jobs' exit codes."""
        from filelock import FileLock, Timeout

        if self.lock is None:
            make(self.base / FOLDER)
            self.lock = FileLock(self.base / FOLDER / ".supervisor", timeout=0, thread_local=False)
        try:
            if not self.lock.is_locked:
                self.lock.acquire()
        except Timeout:
            return False
        return True

    def look(self, queue: Queue, job: Job) -> None:
        """Writes down what became of a job, and insists where it was asked to stop."""
        now = settled(adopted(job, self.program) if job.pid == STARTING else job)
        if now.state == "waiting" and now.stop:
            now = now.ends("stopped", now.reason)
        if now.state == "stopping":
            now = self.urge(now)
        if now != job:
            queue.write(now)

    def urge(self, job: Job) -> Job:
        """The next means to end a job: the file (again, where its start has swept it), SIGTERM, and at last a kill."""
        waited = time.time() - job.stop
        if job.stop_file is not None:
            job.stop_file.touch()
        patience = self.patience if job.stop_file is not None else 0.0
        level = 2 if waited >= self.last else 1 if waited >= patience else 0
        if level <= job.urged:
            return job
        end(job, kill=level == 2)
        return replace(job, urged=level)

    def start_one(self, queues: Sequence[Queue]) -> bool:
        """Starts the next job where a lane is free; False when nothing was to be done."""
        jobs = [(queue, job) for queue in queues for job in queue.jobs()]
        taken = {job.lane for _, job in jobs if job.pid and not job.end}
        free = next((lane for lane in range(self.lanes) if lane not in taken), None)
        busy = {job.folder for _, job in jobs if job.run and job.pid and not job.end}  # one process in a run's folder
        waiting = turns(
            [(queue, job) for queue, job in jobs if job.state == "waiting" and job.folder not in busy], jobs
        )
        if free is None or not waiting:
            return False
        queue, job = waiting[0]
        with queue.alone():
            if queue.get(job.id).state == "waiting":  # nobody has cancelled it since
                self.start(queue, queue.get(job.id), free)
        return True

    def start(self, queue: Queue, job: Job, lane: int) -> None:
        """Starts a job; what keeps it from starting is how it failed."""
        job = queue.write(replace(job, pid=STARTING, lane=lane, end="", urged=0))  # found again should this end here
        try:
            if job.trains:
                self.before()
            queue.write(begin(job, self.program, queue.runs, devices(self.lanes, self.gpus)[lane]))
        except (StudioError, OSError) as error:
            queue.write(replace(job.ends("failed", f"it could not be started: {error}"), pid=0))

    def work(self, over: threading.Event, every: float = EVERY) -> None:
        """Ticks until `over`; a tick that fails is said once, and tried again."""
        while not over.is_set():
            try:
                self.tick()
                self.problem = ""
            except (StudioError, OSError) as error:
                if str(error) != self.problem:
                    log.error("the queue stands still: %s", error)
                self.problem = str(error)
            over.wait(every)

    @contextmanager
    def at_work(self, every: float = EVERY) -> Iterator[None]:
        """Inside, a thread ticks. Leaving ends the thread; the jobs' processes go on."""
        over = threading.Event()
        thread = threading.Thread(target=self.work, args=(over, every), name="queue", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if self.lock is not None:
                self.lock.release()


def turns(waiting: Sequence[tuple[Queue, Job]], jobs: Sequence[tuple[Queue, Job]]) -> list[tuple[Queue, Job]]:
    """Who comes next: each queue in its own order, those with fewer jobs at work first, then whoever asked first."""
    load = {queue: sum(mine == queue and bool(job.pid) and not job.end for mine, job in jobs) for queue, _ in jobs}
    heads: dict[Queue, tuple[Queue, Job]] = {}
    for queue, job in waiting:
        heads.setdefault(queue, (queue, job))
    return sorted(heads.values(), key=lambda head: (load[head[0]], head[1].asked))
