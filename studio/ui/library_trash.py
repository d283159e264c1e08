"""Deleting a run moves it to RUNS/.trash; it comes back whole, or is deleted for good when somebody says so."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from studio.pipelines.confine import inside
from studio.pipelines.errors import DataError, UsageError
from studio.store import NAME, Store
from studio.ui.jobs import Queue
from studio.ui.library import run_of

FOLDER = ".trash"
TRAINING = "the run '{}' waits or is being trained: stop it under Watch, then delete it"
KEY = re.compile(rf"(?P<name>{NAME.pattern})~(?P<time>\d+)(?:-\d+)?")


@dataclass(frozen=True)
class Thrown:
    """A run in the trash. key: its folder there; name: as it was called; time: unix seconds when it was deleted."""

    key: str
    name: str
    time: int

    def line(self) -> str:
        """Name and day, for a list."""
        return f"{self.name}, deleted {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.time))}"


def throw(runs: Path, name: str) -> Thrown:
    """Moves a run to the trash. Raises UsageError while a process works in it, or there is none."""
    run = run_of(runs, name)
    if busy(runs, run.folder):
        raise UsageError(TRAINING.format(name))
    trash = runs / FOLDER
    trash.mkdir(exist_ok=True)
    now = int(time.time())
    key = Store(trash).free(f"{name}~{now}")
    try:
        with run.alone():
            move(run.folder, trash / key)
    except UsageError:
        raise UsageError(TRAINING.format(name)) from None
    return Thrown(key, name, now)


def busy(runs: Path, folder: Path) -> bool:
    """Whether a job of the queue belongs to a run's folder and has not ended."""
    return any(Path(job.folder) == folder and not job.end for job in Queue(runs).jobs())


def move(old: Path, new: Path) -> None:
    """A rename: at once, and whole or not at all. Raises DataError with the system's reason."""
    try:
        old.rename(new)
    except OSError as error:
        raise DataError(f"{old.name} cannot be moved to {new.parent}: {error.strerror or error}") from None


def thrown(runs: Path) -> list[Thrown]:
    """What is in the trash, the last deleted first."""
    found = [(KEY.fullmatch(path.name), path) for path in (runs / FOLDER).glob("*") if path.is_dir()]
    rows = [Thrown(path.name, match["name"], int(match["time"])) for match, path in found if match]
    return sorted(rows, key=lambda row: (row.time, row.key), reverse=True)


def place(runs: Path, key: str) -> tuple[Path, str]:
    """The folder of a key that a page sent, and the run's name. Raises UsageError for any other."""
    match = KEY.fullmatch(key or "")
    folder = inside(runs / FOLDER, key) if match else None
    if match is None or folder is None or not folder.is_dir():
        raise UsageError("choose a run in the trash first; what was restored or emptied is no longer there")
    return folder, match["name"]


def restore(runs: Path, key: str) -> str:
    """Brings a run back, under its name or, where that is taken, the next free one; the name it has now."""
    folder, name = place(runs, key)
    free = Store(runs).free(name)
    move(folder, runs / free)
    return free


def empty(runs: Path, key: str = "") -> int:
    """Deletes one run of the trash for good, or with no key all of them; how many went. Raises DataError."""
    gone = [place(runs, key)[0]] if key else [runs / FOLDER / row.key for row in thrown(runs)]
    for folder in gone:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise DataError(f"{folder.name} cannot be deleted: {error.strerror or error}") from None
    return len(gone)
