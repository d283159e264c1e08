"""The runs of a folder as a list: read from the disk each time, searched and paged. Knows neither gradio nor torch."""

from __future__ import annotations

import json
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
ENDS = ("done", "failed", "stopped")
WATCHED = ("run.toml", "events.jsonl", library_notes.FILE)  # what a list's line is made of
TAIL = 2**16  # bytes of events.jsonl
ALIVE = 90.0  # seconds since its last line, within which a run that did not end is taken as running
Stamp = tuple[tuple[int, int], ...]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Entry:
    """A run as the list shows it. end: how it ended, "" where it did not; written: unix time of its last line;
    steps: that it shall do; damage: why its run.toml cannot be read; job: its state in the queue, "" where it has none.
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

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    def state(self, now: float | None = None) -> str:
        """new, running, unfinished, stopped, failed, done or damaged; waiting or stopping by its job."""
        if self.damage:
            return "damaged"
        if self.job in BUSY:
            return self.job
        if self.end:
            return self.end
        if not self.written:
            return "new"
        return "running" if (now or time.time()) - self.written < ALIVE else "unfinished"

    def line(self, now: float | None = None) -> str:
        """Name, state and progress, for below a thumbnail."""
        progress = f" {self.step}/{self.steps}" if self.steps and self.state(now) != "done" else ""
        return f"{self.name} \N{MIDDLE DOT} {self.state(now)}{progress}"

    def words(self) -> str:
        """What a search looks through."""
        return " ".join((self.name, self.trainer, self.model, self.subject, self.note, self.state())).casefold()


def entries(runs: Path, jobs: Mapping[str, str] = MappingProxyType({})) -> list[Entry]:
    """All runs of a folder, the last written first. What has not changed since the last call is not read again.

    jobs: states in the queue, by run.
    """
    found = [read(path.parent, stamp(path.parent)) for path in runs.glob("*/run.toml")]
    kept = [entry for entry in found if not entry.folder.is_symlink() or is_inside(runs, entry.folder)]
    mine = [replace(entry, job=jobs.get(entry.name, "")) for entry in kept]
    return sorted(mine, key=lambda entry: (entry.written or made(entry.folder), entry.name), reverse=True)


def stamp(folder: Path) -> Stamp:
    """Sizes and times of the files that a line is made of; (0, 0) for one that is not there."""
    return tuple(one(folder / name) for name in WATCHED)


def one(file: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def made(folder: Path) -> float:
    """When a run's config was written, unix time."""
    return one(folder / "run.toml")[1] / 1e9


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
