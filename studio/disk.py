"""A full disk: seen before writing, said in one line, waited for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from studio.pipelines.errors import MemoryShortage, UsageError, is_full
from studio.stop import Stop, Stopped

T = TypeVar("T")
POLL = 5.0  # seconds between two tries to write
NAP = 0.2  # seconds between two looks whether somebody asked to stop


class DiskFull(MemoryShortage):
    """The disk is full; what was finished is kept."""


@contextmanager
def room(folder: Path, what: str, kept: str) -> Iterator[None]:
    """Turns a full disk into one line that says what was not written and what was kept. Raises DiskFull."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFull(f"the disk of {folder} is full: {what} was not written; {kept}") from error


def make(folder: Path) -> None:
    """Makes a run's folder. Raises DiskFull, and UsageError where there can be none."""
    try:
        with room(folder.parent, "the run", "nothing was written"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"runs = '{folder.parent}': no folder can be made there ({reason})") from error


def need_room(folder: Path, size: int, what: str, kept: str) -> None:
    """Raises DiskFull when fewer than `size` bytes are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if free < size:
        figures = f"{size / 2**20:.2f} MiB needed, {free / 2**20:.2f} MiB free"
        raise DiskFull(f"not enough disk in {folder} for {what} ({figures}); {kept}")


def patiently(write: Callable[[], T], minutes: float, say: Callable[[str], None], stop: Stop) -> T:
    """What `write` returns; while the disk is full it is tried again, for as long as `minutes`.

    Raises DiskFull when it is still full then, Stopped when somebody asked to stop meanwhile.
    """
    try:
        return attempt(write)
    except DiskFull as error:
        shortage = error
    until = time.monotonic() + 60 * minutes
    if minutes > 0:
        say(f"paused: {shortage}; the run goes on by itself when there is room, and gives up in {minutes:g} minutes")
    while time.monotonic() < until:
        if rested(stop):
            raise Stopped(str(shortage)) from shortage
        try:
            made = attempt(write)
        except DiskFull as error:
            shortage = error
        else:
            say("there is room again: the run goes on")
            return made
    raise shortage


def attempt(write: Callable[[], T]) -> T:
    """What `write` returns; DiskFull for a full disk, whoever says it."""
    try:
        return write()
    except DiskFull:
        raise
    except Exception as error:  # writers of files wrap the system's error in their own
        cause = next((one for one in (error, error.__cause__) if isinstance(one, OSError)), OSError(str(error)))
        if not is_full(cause):
            raise
        file = cause.filename or "a file"
        raise DiskFull(f"the disk is full: {file} was not written; what was finished is kept") from error


def rested(stop: Stop) -> bool:
    """Sleeps until the next try; True as soon as somebody asks to stop."""
    until = time.monotonic() + POLL
    while time.monotonic() < until:
        if stop():
            return True
        time.sleep(min(NAP, POLL))
    return stop()
