"""Shows a run's events: a live display on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import io
import signal
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO

from studio.events import Event
from studio.rate import Rate, memory

if TYPE_CHECKING:
    from rich.progress import TaskID

# the text, and what it says in words
SAID = (
    "message", "path", "parts", "data", "changes", "predicted", "measured", "free", "name", "error", "exit_code",
    "ended",
)  # fmt: skip
RECORDED = ("memory", "failed")  # for the record: nobody reads along, and who has called says the error
Kind = Literal["auto", "live", "plain", "json"]
QUIET_SECONDS = 3.0


def words(event: Event) -> str:
    """A named event as a sentence."""
    fields = event.fields
    text = fields.get("message") or fields.get("path") or ""
    rest = [f"{key} {value}" for key, value in fields.items() if key not in SAID]
    named = event.event == "message" or str(text).startswith(event.event)  # "stopped: stopped; kept ..."
    return " ".join(str(part) for part in [*([] if named else [f"{event.event}:"]), text, *rest] if part)


class Progress:
    """Called with every event of a run; a context manager, so that the display is taken down at the end.

    total: optimizer steps of the run. kind: "auto" is live on a terminal and plain elsewhere. When the reader
    of stdout has gone, the process is interrupted as by Ctrl-C: the run saves its state, nothing is shown.
    """

    def __init__(self, total: int, kind: Kind = "auto", out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        chosen = ("live" if self.out.isatty() else "plain") if kind == "auto" else kind
        self.rate = Rate(total)
        self.total = total
        self.phase = ""
        self.shown = 0.0
        self.show: Callable[[Event], None] = {"json": self.json, "plain": self.plain, "live": self.live}[chosen]
        self.bars: Any = None
        self.bar: TaskID | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None

    def __call__(self, event: Event) -> None:
        if event.phase == "train" and not event.event:
            self.rate.add(event)
        if event.event in RECORDED and self.show != self.json:
            return
        try:
            self.show(event)
            self.out.flush()
        except BrokenPipeError:
            self.out, self.show = io.StringIO(), lambda event: None
            signal.raise_signal(signal.SIGINT)
        self.phase = event.phase

    def json(self, event: Event) -> None:
        """The event's line on stdout; what a person should read goes to stderr too."""
        print(event.line(), file=self.out)
        if event.event in ("message", "warning"):
            print(f"studio: {words(event)}", file=sys.stderr)

    def plain(self, event: Event) -> None:
        """One line per phase and named event, steps at most every few seconds."""
        counting = event.event in ("", "progress")
        last = self.done(event) >= self.goal(event)
        if counting and event.phase == self.phase and not last and event.time - self.shown < QUIET_SECONDS:
            return
        if counting:
            self.shown = event.time
        text = self.count(event) if counting else words(event)
        print(f"{time.strftime('%H:%M:%S', time.localtime(event.time))} {event.phase:<7} {text}", file=self.out)

    def live(self, event: Event) -> None:
        """A bar per phase; named events scroll above it."""
        if self.bars is None:
            self.bars = bars(self.out)
            self.bars.start()
        if event.event not in ("", "progress"):
            self.bars.console.print(f"{event.phase:<7} {words(event)}", markup=False, highlight=False)
            return
        if event.phase != self.phase or self.bar is None:
            self.bar = self.bars.add_task(event.phase, total=self.goal(event), words="")
        status = self.rate.words(event.step) if event.phase == "train" else memory()
        self.bars.update(self.bar, completed=self.done(event), total=self.goal(event), words=status)

    def done(self, event: Event) -> int:
        """How far the phase is."""
        return int(event.step if event.phase == "train" else event.fields.get("done", 0))

    def goal(self, event: Event) -> int:
        """Where the phase ends."""
        return int(self.total if event.phase == "train" else event.fields.get("total", 0))

    def count(self, event: Event) -> str:
        """`120/500  2.1 it/s  ...`."""
        count = f"{self.done(event)}/{self.goal(event)}" if self.goal(event) else str(event.get("message", "")).strip()
        return f"{count}  {self.rate.words(event.step) if event.phase == 'train' else memory()}".strip()


def bars(out: TextIO) -> Any:
    """rich's progress display with our columns."""
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description:<7}"),
        progress.BarColumn(bar_width=30),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[words]}"),
        console=Console(file=out),
        refresh_per_second=8,
    )
