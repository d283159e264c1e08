"""The runs of a folder as a list: read from the disk each time, searched and paged. Knows neither gradio nor torch."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from studio.events import Event
from studio.pipelines.confine import inside, is_inside
from studio.pipelines.errors import UsageError
from studio.store import NAME, Run, Store
from studio.ui import library_notes

BUSY = ("waiting", "running", "stopping")  # states of a job that has not ended
BROKEN = ("cancelled", "failed", "stopped")  # and of one that ended with nothing done
NEVER = "not begun"  # the state of a run that nothing was made of
ENDS = ("done", "failed", "stopped")
WATCHED = ("run.toml", "events.jsonl", library_notes.FILE)  # what a list's line is made of
GONE = 0, 0
TAIL = 2**16  # bytes of events.jsonl
ALIVE = 90.0  # seconds since its last line, within which a run that did not end is taken as running
Stamp = tuple[tuple[int, int], ...]
Told = tuple[str, str]  # by the queue: the state of a run's training, and what else is done with it
Item = TypeVar("Item")


@dataclass(frozen=True)
class Entry:
    """A run as the list shows it. end: how it ended, "" where it did not; written: unix time of its last line;
    steps: that it shall do; damage: why its run.toml cannot be read; job: its training's state in the queue, "" where
    it has none; doing: what else is done with it, such as `evaluation running`.
    """

    folder: Path
    trainer: str = ""
    model: str = ""
    subject: str = ""
    note: str = ""
    end: str = ""
    step: int = 0
    steps: int = 0
    written: float = 0.0
    damage: str = ""
    job: str = ""
    doing: str = ""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    def state(self, now: float | None = None) -> str:
        """not begun, running, unfinished, stopped, failed, done or damaged; waiting or stopping by its job; and
        `cancelled before it began`, or failed, or stopped, where the queue still knows it.
        """
        if self.damage:
            return "damaged"
        if self.job in BUSY:
            return self.job
        if self.end:
            return self.end
        if not self.written:
            return f"{self.job} before it began" if self.job in BROKEN else NEVER
        return "running" if (now or time.time()) - self.written < ALIVE else "unfinished"

    def standing(self, now: float | None = None) -> str:
        """State, progress, and what else is done with it: the same wherever the run is shown."""
        state = self.state(now)
        progress = f" {self.step}/{self.steps}" if self.steps and self.written and state != "done" else ""
        return f"{state}{progress}" + (f", {self.doing}" if self.doing else "")

    def line(self, now: float | None = None) -> str:
        """Name and standing, for below a thumbnail."""
        return f"{self.name} \N{MIDDLE DOT} {self.standing(now)}"

    def words(self) -> str:
        """What a search looks through."""
        return " ".join((self.name, self.trainer, self.model, self.subject, self.note, self.standing())).casefold()


def entries(runs: Path, jobs: Mapping[str, Told] = MappingProxyType({})) -> list[Entry]:
    """All runs of a folder, the last written first. What has not changed since the last call is not read again."""
    return filled(stamped(runs), jobs)


def stamped(runs: Path) -> list[tuple[Path, Stamp]]:
    """The folder and the stamp of every run, the last written first: nothing is read for it."""
    try:
        with os.scandir(runs) as rows:
            there = [(row.path, row.is_symlink()) for row in rows if not row.name.startswith(".")]
    except OSError:
        return []
    found = [(path, stamp(path)) for path, link in there if not link or is_inside(runs, Path(path))]
    mine = sorted(((path, at) for path, at in found if at[0] != GONE), key=lambda row: (last(row[1]), row[0]))
    return [(Path(path), at) for path, at in reversed(mine)]


def filled(found: Iterable[tuple[Path, Stamp]], jobs: Mapping[str, Told]) -> list[Entry]:
    """The lines of some runs. jobs: what the queue says, by run."""
    known = (read(folder, at) for folder, at in found)
    return [replace(one, job=told[0], doing=told[1]) if (told := jobs.get(one.name)) else one for one in known]


def last(at: Stamp) -> int:
    """When a run's last line was written, or its config where it has none; nanoseconds."""
    return (at[0] if never(at) else at[1])[1]


def never(at: Stamp) -> bool:
    """Whether a run with this stamp never wrote a line."""
    return at[1] == GONE


def stamp(folder: Path | str) -> Stamp:
    """Sizes and times of the files that a line is made of; (0, 0) for one that is not there."""
    return tuple(one(f"{folder}{os.sep}{name}") for name in WATCHED)


def one(file: str) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds."""
    try:
        found = os.stat(file)  # noqa: PTH116 - three of these for every run at every look
    except OSError:
        return GONE
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=4096)
def read(folder: Path, at: Stamp) -> Entry:
    """The line of a run whose files have the stamp `at`."""
    note = library_notes.read(folder)
    end, step = ending(folder / "events.jsonl")
    written = at[1][1] / 1e9
    try:
        table = toml(folder / "run.toml")
    except (OSError, ValueError, UsageError) as error:
        return Entry(folder, note=note, end=end, step=step, written=written, damage=str(error).splitlines()[0])
    trainer = str(table.get("trainer", ""))
    mine = table.get(trainer)
    settings: dict[str, Any] = mine if isinstance(mine, dict) else {}
    data = settings.get("data")
    place = Path(str(data.get("folder", "")) if isinstance(data, dict) else "")
    subject = " ".join(part for part in place.parts[-2:] if part not in ("train", "images", "none"))
    steps = settings.get("steps", 0)
    steps = steps if isinstance(steps, int) else 0
    end = "" if end == "done*" and step < steps else end.rstrip("*")
    return Entry(folder, trainer, str(table.get("model", "")), subject, note, end, step, steps, written)


def toml(file: Path) -> dict[str, Any]:
    """The values of a TOML file, by the quick reader where Python has it: tomlkit takes ten times as long."""
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(file.read_text("utf-8"))
    from studio.toml import read as slowly

    return dict(slowly(file))


def ending(file: Path) -> tuple[str, int]:
    """How a run ended by the last lines of its events, and its last step; "done*" where more steps would undo it."""
    step, by_itself = 0, False
    for event in backwards(file):
        step = max(step, event.step)
        by_itself = by_itself or event.event == "ended" or bool(event.get("ended"))
        if event.event in ENDS:
            return ("done*" if event.event == "done" and not by_itself else event.event), step
        if event.numbers and event.phase == "train":
            return "", step
    return "", step


def backwards(file: Path) -> Iterable[Event]:
    """The events of a file's end, the last one first."""
    try:
        with file.open("rb") as lines:
            size = lines.seek(0, 2)
            lines.seek(max(0, size - TAIL))
            text = lines.read()
    except OSError:
        return
    for line in reversed(text.splitlines()):
        try:
            yield Event.read(line.decode("utf-8", "replace"))
        except (ValueError, TypeError, json.JSONDecodeError):  # torn, or the half line that the tail begins with
            continue


def find(found: Sequence[Entry], wanted: str) -> list[Entry]:
    """The runs in whose name, method, model, subject, note or state every word of `wanted` stands."""
    words = wanted.casefold().split()
    return [entry for entry in found if all(word in entry.words() for word in words)]


def page(items: Sequence[Item], number: int, size: int) -> tuple[list[Item], int, int]:
    """The items of a page, its number (1 is the first; one that does not exist becomes the nearest), how many pages."""
    pages = max(1, -(-len(items) // size))
    number = min(max(1, number), pages)
    return list(items[(number - 1) * size : number * size]), number, pages


def run_of(runs: Path, name: str) -> Run:
    """The run of a name that a page sent. Raises UsageError for no plain name and for a run that is not there."""
    if not NAME.fullmatch(name or ""):
        raise UsageError("choose a run in the list first")
    folder = inside(runs, name)
    if not (folder / "run.toml").is_file():
        known = ", ".join(run.name for run in Store(runs).list()[:5])
        raise UsageError(f"there is no run '{name}' any more; reload the list" + (f" ({known} ...)" if known else ""))
    return Run(folder.absolute())
