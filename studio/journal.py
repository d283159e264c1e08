"""A running run's voice: its events go to the display and into its folder, and wait there for room."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from studio import logs
from studio.disk import DiskFull, patiently
from studio.events import Event, plain
from studio.stop import Stop, Stopped
from studio.store import Run

if TYPE_CHECKING:
    import torch

    from studio.peaks import Peaks

__all__ = ["Journal", "Report", "Stopped"]

Report = Callable[[Event], None]
T = TypeVar("T")


@dataclass
class Journal:
    """Sends events to the display, and to the run's folder as soon as there is one.

    patience: minutes that a write into the folder waits when the disk is full.
    """

    report: Report
    stop: Stop = field(default_factory=Stop)
    run: Run | None = None
    phase: str = "load"
    step: int = 0
    patience: float = 0.0
    waiting: list[Event] = field(default_factory=list)
    pausing: bool = False
    peaks: Peaks | None = None

    def open(self, run: Run, patience: float = 0.0) -> None:
        """From now on events are kept in the run's folder, those that waited first."""
        self.run, self.patience = run, patience
        logs.to(run.folder)
        self.write()

    def enter(self, phase: str) -> None:
        """A phase begins."""
        self.phase = phase
        if self.peaks is not None:
            self.peaks.enter(phase)

    def watch(self, device: torch.device, predicted: dict[str, int]) -> None:
        """From now on each phase's peak memory is an event, beside what was predicted."""
        from studio.peaks import Peaks

        def measured(phase: str, peak: int) -> None:
            plan = predicted.get(phase)
            told = "not predicted" if plan is None else f"{plan / 2**30:.2f} predicted"
            said = f"{phase} took at most {peak / 2**30:.2f} GiB ({told})"
            self("memory", message=said, name=phase, predicted=plan, measured=peak)

        self.unwatch()
        self.peaks = Peaks(device, measured)
        self.peaks.enter(self.phase)

    def unwatch(self) -> None:
        """The last phase's peak is told, and nothing is measured any more."""
        peaks, self.peaks = self.peaks, None
        if peaks is not None:
            peaks.end()

    def __call__(self, event: str = "", numbers: dict[str, Any] | None = None, **fields: Any) -> None:
        said = Event(self.phase, self.step, numbers or {}, event, plain(fields))
        if event != "progress":
            self.waiting.append(said)
        try:
            self.write()
        finally:
            self.report(said)

    def write(self) -> None:
        """The events that wait, into the folder; nothing while the run is paused, as they would not fit."""
        if self.run is not None and not self.pausing:
            self.patiently(self.flush)

    def flush(self) -> None:
        """The events that wait, one by one: one that was written waits no more."""
        while self.run is not None and self.waiting:
            self.run.log(self.waiting[0])
            self.waiting.pop(0)

    def patiently(self, write: Callable[[], T]) -> T:
        """What `write` returns. While the disk is full the run is paused, and says so.

        Raises DiskFull when it stays full for `patience` minutes, Stopped when somebody asked to stop.
        """
        outer, self.pausing = self.pausing, True
        try:
            made = patiently(write, self.patience, lambda text: self("warning", message=text), self.stop)
        finally:
            self.pausing = outer
        return made

    def end(self, event: str, **fields: Any) -> None:
        """A final event, which is reported even where it cannot be written."""
        self.patience = 0.0
        with suppress(DiskFull, OSError):
            self.unwatch()
            self(event, **fields)

    def count(self, phase: str, steps: Iterator[tuple[int, int]], **about: Any) -> None:
        """Report a phase's progress while it runs; Stopped when somebody asked for it. about: what is counted."""
        self.enter(phase)
        # closed now, not when somebody drops it: what it borrowed (the random state, the adapter) is given back
        with closing(steps) if isinstance(steps, Generator) else nullcontext():
            for done, total in steps:
                self("progress", done=done, total=total, **about)
                self.stop.check()
