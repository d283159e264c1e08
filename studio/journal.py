"""A running run's voice and ear: its events go out, requests to stop come in."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from studio.events import Event
from studio.store import Run

Report = Callable[[Event], None]


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has saved its state."""


@dataclass
class Journal:
    """Sends events to the display, and to the run's folder as soon as there is one."""

    report: Report
    run: Run | None = None
    phase: str = "load"
    step: int = 0
    waiting: list[Event] = field(default_factory=list)
    asked: Callable[[], bool] = lambda: False

    def open(self, run: Run) -> None:
        """From now on events are kept in the run's folder, those that waited first."""
        self.run = run
        for event in self.waiting:
            run.log(event)
        self.waiting.clear()

    def __call__(self, event: str = "", numbers: dict[str, Any] | None = None, **fields: Any) -> None:
        said = Event(self.phase, self.step, numbers or {}, event, fields)
        if self.run is None:
            self.waiting.append(said)
        elif event != "progress":
            self.run.log(said)
        self.report(said)

    def count(self, phase: str, steps: Iterator[tuple[int, int]]) -> None:
        """Report a phase's progress while it runs; Stopped when somebody asked for it."""
        self.phase = phase
        for done, total in steps:
            self("progress", done=done, total=total)
            if self.asked():
                raise Stopped


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM ask the run to stop at its next safe step; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
