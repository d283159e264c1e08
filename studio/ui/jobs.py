"""The queue of one place's runs: a folder of JSON files, one per job, which every server and every page reads anew."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checkpoints import sync
from studio.disk import make, room
from studio.pipelines.errors import UsageError
from studio.store import Run, Store
from studio.ui.jobs_process import Job, settled

if TYPE_CHECKING:
    from studio.config import RunConfig
    from studio.ui.place import Place

__all__ = ["FOLDER", "Job", "Queue"]

FOLDER = ".queue"
MOST = 20  # jobs that may wait in one queue
KEPT = 50  # jobs that have ended and are still shown
WAIT = 10.0  # seconds for which a change waits for another one
ENDED: dict[Path, tuple[tuple[int, int, int], Job]] = {}  # what was read of ended jobs, by file and its stamp


@dataclass(frozen=True)
class Queue:
    """runs: the folder whose `.queue` this is. On a Space each user has runs of their own, and with them a queue."""

    runs: Path

    @property
    def folder(self) -> Path:
        return self.runs / FOLDER

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, nobody else changes the queue. Raises UsageError when somebody does for long; not to be nested."""
        from filelock import FileLock, Timeout

        make(self.folder)
        lock = FileLock(self.folder / ".lock", timeout=WAIT)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError("the queue is being changed by somebody else; try again in a moment") from None
        try:
            yield
        finally:
            lock.release()

    def read(self) -> list[Job]:
        """Every job as its file says, the next one first; a file that cannot be read is a failed job that says so."""
        found = filter(None, map(load, self.folder.glob("*.json")))
        return sorted(found, key=lambda job: (job.order, job.id))

    def jobs(self) -> list[Job]:
        """Every job as it truly is now: whether its process lives, and what it said last."""
        return [settled(job) for job in self.read()]

    def get(self, job: str) -> Job:
        """A job by its id. Raises UsageError when there is none."""
        found = load(self.folder / f"{job}.json") if job.replace("-", "").isalnum() else None
        if found is None:
            raise UsageError(f"there is no job '{job[:80]}' in the queue any more; reload the page")
        return settled(found)

    def of(self, run: str, command: str = "train") -> Job | None:
        """The newest job of a run and a command; None where it never was in the queue."""
        return newest(self.jobs(), command).get(run)

    def ahead(self, job: Job) -> int:
        """How many jobs are at work, or wait before this one."""
        jobs = [other for other in self.jobs() if not other.end and other.id != job.id]
        return sum(other.state != "waiting" or other.order < job.order for other in jobs)

    def write(self, job: Job) -> Job:
        """A job's file, written aside and renamed. Raises DiskFull."""
        aside = self.folder / f".{job.id}.writing"
        with room(self.folder, "the queue", "free some space and try again"):
            sync(aside, json.dumps(dataclasses.asdict(job), ensure_ascii=False, indent=1).encode())
            aside.replace(self.folder / f"{job.id}.json")
        return job

    def submit(self, config: RunConfig, owner: str = "", fresh: bool = False, place: Place | None = None) -> Job:
        """A run, last in the queue; its folder is made with run.toml. Twice the same is one job.

        fresh: under a free name, as `studio train --fresh`; place: whose words the config has, where they are not
        trusted. Raises UsageError, DataError and DiskFull with nothing put into the queue.
        """
        from studio.ui.jobs_trust import checked

        config = checked(config.model_copy(update={"runs": self.runs.absolute()}), place)
        store = Store(config.runs)
        with self.alone():
            name = store.free(config.run or store.today(config)) if fresh else store.name(config)
            config, folder = config.model_copy(update={"run": name}), config.runs / name
            if there := self.busy(str(folder)):
                if Run(folder).config() == config.resolved(name, config.runs):
                    return there
                raise UsageError(f"the run '{name}' is {there.state} in the queue: stop it first, or give another name")
            self.admit()
            run = store.create(config)
            return self.put(("train", str(run.config_file), "--json"), run.folder, owner)

    def command(self, words: Sequence[str], folder: Path | None = None, owner: str = "", module: str = "studio") -> Job:
        """`studio WORDS` (or `python -m MODULE WORDS`), last in the queue. Twice the same is one job.

        folder: of the run it belongs to. Paths among the words are absolute: the process begins in `runs`.
        """
        with self.alone():
            same = (job for job in self.jobs() if (job.module, job.words) == (module, tuple(words)) and not job.end)
            if (there := next(same, None)) is not None:
                return there
            self.admit()
            return self.put(tuple(words), folder, owner, module)

    def resume(self, name: str, owner: str = "") -> Job:
        """A run that was stopped or failed, or a job's id, last in the queue again; the same command goes on with it.

        Raises UsageError for one that is finished or unknown.
        """
        with self.alone():
            job = next((job for job in self.jobs() if job.id == name), None) or self.of(name)
            if job is not None and not job.end:
                return job
            if job is None or (job.run and job.trains):
                run = Store(self.runs.absolute()).open(job.run if job else name)
                if run.state() == "done":
                    raise UsageError(f"the run '{run.name}' is finished; to go on, start it again with more steps")
                if there := self.busy(str(run.folder)):
                    return there
                if job is None:
                    return self.put(("train", str(run.config_file), "--json"), run.folder, owner)
            self.admit()
            kept = {name: getattr(job, name) for name in ("id", "words", "folder", "module", "run", "owner")}
            return self.write(Job(**kept, order=self.last(), asked=time.time()))

    def cancel(self, job: str) -> Job:
        """Take a waiting job out of the queue; one that runs is asked to stop instead."""
        with self.alone():
            found = self.get(job)
            if found.state == "waiting":
                return self.write(dropped(found))
        return self.stop(job)

    def stop(self, job: str) -> Job:
        """Ask a job to save its state and end; the supervisor insists. A waiting one is cancelled."""
        with self.alone():
            found = self.get(job)
            if found.end or found.stop:
                return found
            if found.state == "waiting":
                return self.write(dropped(found))
            if found.stop_file is not None:
                found.stop_file.touch()
            return self.write(dataclasses.replace(found, stop=time.time()))

    def move(self, job: str, place: int) -> list[Job]:
        """Give a waiting job a place among those that wait, 0 for the next one; the jobs in their new order."""
        with self.alone():
            waiting = [found for found in self.jobs() if found.state == "waiting"]
            mine = next((found for found in waiting if found.id == job), None)
            if mine is None:
                raise UsageError("only a job that waits can be moved; this one has begun or ended")
            orders = [found.order for found in waiting]
            waiting.remove(mine)
            waiting.insert(min(max(place, 0), len(waiting)), mine)
            for found, order in zip(waiting, orders, strict=True):
                if found.order != order:
                    self.write(dataclasses.replace(found, order=order))
        return self.jobs()

    def forget(self, job: str = "") -> None:
        """Take an ended job, or all that have ended, off the list; their runs stay."""
        with self.alone():
            for found in self.jobs():
                if found.end and job in ("", found.id):
                    (self.folder / f"{found.id}.json").unlink(missing_ok=True)

    def busy(self, folder: str) -> Job | None:
        """The training job of a run's folder that waits or runs."""
        mine = (job for job in self.jobs() if job.folder == folder and job.trains)
        return next((job for job in mine if not job.end), None)

    def admit(self) -> None:
        """Raises UsageError when too many jobs wait."""
        if sum(job.state == "waiting" for job in self.jobs()) >= MOST:
            raise UsageError(f"{MOST} jobs wait in the queue already: cancel one, or come back when some have ended")

    def last(self) -> float:
        """An order behind all others."""
        return max((job.order for job in self.read()), default=0.0) + 1.0

    def put(self, words: tuple[str, ...], folder: Path | None, owner: str, module: str = "studio") -> Job:
        """A new job, last; those that ended long ago are forgotten."""
        ended = sorted((job for job in self.jobs() if job.end), key=lambda job: job.ended)
        for old in ended[:-KEPT]:
            (self.folder / f"{old.id}.json").unlink(missing_ok=True)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        run = folder.name if folder is not None else ""
        place, now = str((folder or self.folder).absolute()), time.time()
        return self.write(Job(name, words, place, module, run, owner, order=self.last(), asked=now))


def newest(jobs: Sequence[Job], command: str = "train") -> dict[str, Job]:
    """Of every run its newest job of a command; one that was taken out before it began is `cancelled`."""
    mine = (job for job in jobs if job.run and job.name == command)
    return {job.run: job for job in sorted(mine, key=lambda job: job.asked)}


def dropped(job: Job) -> Job:
    """A waiting job, out of the queue."""
    if job.began:
        return job.ends("stopped", "taken out of the queue while it waited to go on")
    return job.ends("cancelled", "taken out of the queue before it began")


def load(file: Path) -> Job | None:
    """A job out of its file; one that cannot be read is a failed job, one that was just forgotten is None.

    A job that has ended is read once, until its file is another one.
    """
    try:
        about = file.stat()
        stamp = (about.st_mtime_ns, about.st_ino, about.st_size)
        if (known := ENDED.get(file)) is not None and known[0] == stamp:
            return known[1]
        values: dict[str, Any] = json.loads(file.read_text("utf-8"))
        job = Job(**{**values, "id": file.stem, "words": tuple(map(str, values["words"]))})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        said = f"{file} is damaged ({type(error).__name__}); remove it and start the run again"
        return Job(file.stem, (), str(file.parent), end="failed", reason=said)
    if job.end:
        if len(ENDED) > 20 * KEPT:
            ENDED.clear()
        ENDED[file] = stamp, job
    return job
