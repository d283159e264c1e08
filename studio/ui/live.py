"""A run as the page watches it: read from its folder alone, a little at a time, so that any reload finds the truth."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from studio.events import Event
from studio.pipelines.errors import UsageError
from studio.rate import Rate, lasting
from studio.secrets import redact
from studio.store import Run
from studio.ui import live_log, live_previews
from studio.ui.live_numbers import Numbers
from studio.ui.live_tail import Tail

FINAL = ("done", "stopped", "failed")
KEPT = 32  # runs whose reading is kept between two looks
NOTES, LINES = 50, 200


@dataclass
class Live:
    """What events.jsonl says so far.

    heard: when it last said something, unix seconds; end: the event that ended the last start, None while one is at
    work; peak: bytes that a phase took at most; notes: warnings, the newest last; lines: its news; seen: events of each
    kind, by which a page knows what it has to draw anew.
    """

    run: Run
    numbers: Numbers = field(default_factory=Numbers)
    rate: Rate = field(default_factory=lambda: Rate(0))
    phase: str = ""
    step: int = 0
    heard: float = 0.0
    end: Event | None = None
    peak: int = 0
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NOTES))
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    seen: dict[str, int] = field(default_factory=dict)
    born: int = field(default_factory=time.monotonic_ns)

    def take(self, event: Event) -> None:
        """One event more."""
        self.phase, self.step, self.heard = event.phase, event.step, event.time
        kind = event.event or "numbers"
        self.seen[kind] = self.seen.get(kind, 0) + 1
        if (event.phase == "train" and event.numbers) or kind == "ended":
            if kind == "numbers" and event.step <= self.numbers.last:  # a start from an earlier checkpoint
                self.rate = Rate(self.rate.total)
            self.numbers.take(event)
        if event.phase == "train" and kind == "numbers":
            self.rate.add(event)
        elif event.phase == "load" and self.rate.marks:  # a new start has a speed of its own
            self.rate = Rate(self.rate.total)
        if kind in FINAL:
            self.end = event
        elif event.phase in ("load", "train"):
            self.end = None
        if kind in ("warning", "failed"):
            self.note(str(event.fields.get("message", "")))
        if kind == "memory" and isinstance(measured := event.fields.get("measured"), int):
            self.peak = max(self.peak, measured)
        if line := live_log.said(event):
            self.lines.append(line)

    def note(self, text: str) -> None:
        """A warning; said again it moves to the end."""
        text = redact(" ".join(text.split()))
        if text in self.notes:
            self.notes.remove(text)
        self.notes.append(text)

    def left(self, now: float) -> str:
        """`2 min 3 s`: the time that the training still takes; '' while nobody can say."""
        total, speed = self.rate.total, self.rate.speed
        if self.end is not None or self.phase != "train" or not speed or self.step >= total:
            return ""
        return lasting(max(0.0, (total - self.step) / speed - max(0.0, now - self.heard)))

    def stamps(self) -> dict[str, tuple[int, ...]]:
        """What changes when a part of the page has something new to show."""
        born = (self.born,)
        folder = self.run.folder
        return {
            "numbers": (*born, self.seen.get("numbers", 0), self.seen.get("ended", 0)),
            "previews": (*born, live_previews.stamp(folder)),
            "notes": (*born, self.seen.get("warning", 0), self.seen.get("failed", 0)),
            "log": (*born, sum(self.seen.values()) - self.seen.get("numbers", 0), *live_log.stamp(folder)),
        }


class Reader:
    """One run's events, read on at every look."""

    def __init__(self, run: Run) -> None:
        self.tail, self.live, self.lock = Tail(run.folder / "events.jsonl"), Live(run), threading.Lock()
        self.planned: tuple[int, int] = (-1, 0)

    def look(self) -> Live:
        """The run as its folder has it now."""
        anew, events = self.tail.read()
        if anew:
            self.live = Live(self.live.run)
        for event in events:
            self.live.take(event)
        self.live.rate.total = self.steps()
        return self.live

    def steps(self) -> int:
        """The optimizer steps that run.toml asks for; 0 where it cannot be read."""
        run = self.live.run
        try:
            changed = run.config_file.stat().st_mtime_ns
            if changed != self.planned[0]:
                self.planned = changed, int(run.summary()["steps"] or 0)
        except (OSError, UsageError, ValueError, TypeError):
            return self.planned[1]
        return self.planned[1]


class Readers:
    """The runs somebody watches, by folder: only a memory of how far they were read, the truth is in the folders."""

    def __init__(self) -> None:
        self.kept, self.lock = OrderedDict[Path, Reader](), threading.Lock()

    @contextmanager
    def at(self, folder: Path) -> Iterator[Live]:
        """The run of a folder as it is now; inside, no other visitor's look changes it."""
        with self.lock:
            reader = self.kept.pop(folder, None) or Reader(Run(folder))
            self.kept[folder] = reader
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        with reader.lock:
            yield reader.look()
