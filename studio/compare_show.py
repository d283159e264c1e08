"""How a comparison goes: a live table on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TextIO

from studio.compare_workers import Outcome, Tail, Task
from studio.events import Event, plain
from studio.rate import Rate, clock

Kind = Literal["auto", "live", "plain", "json"]
QUIET_SECONDS = 10.0  # between two plain lines about one task
STYLES = {"running": "cyan", "done": "green", "failed": "red", "stopped": "yellow", "waiting": "dim"}


@dataclass
class Line:
    """One task: what its process said last. steps: optimizer steps, 0 where there are none."""

    task: Task
    steps: int
    tail: Tail
    rate: Rate
    outcome: Outcome
    last: Event | None = None
    shown: float = 0.0
    began: float = 0.0

    @property
    def status(self) -> str:
        """waiting, running, done, failed or stopped."""
        return "running" if self.began and self.outcome.status == "waiting" else self.outcome.status

    def look(self) -> None:
        """Take in what is new."""
        if not self.began and self.task.said.exists():
            self.began = time.time()
        for line in self.tail.lines():
            try:
                event = Event.read(line)
            except ValueError:
                continue
            self.last = event
            if event.phase == "train" and event.numbers:
                self.rate.add(event)

    def words(self) -> str:
        """`train 120/300  2.1 it/s  loss 0.1234  0:12 left`, or why it failed."""
        if self.outcome.status != "waiting" or self.last is None:
            return self.outcome.reason or (clock(self.outcome.seconds) if self.outcome.seconds else "")
        event, rate = self.last, self.rate
        if event.phase != "train":
            done = f" {event['done']}/{event['total']}" if event.event == "progress" and event.get("total") else ""
            return f"{event.phase}{done}"
        parts = [f"train {event.step}/{self.steps}", f"{rate.speed:.3g} it/s" if rate.speed else ""]
        parts += [f"loss {rate.mean:.4f}" if rate.seen else ""]
        left = self.steps - event.step
        return "  ".join(filter(None, [*parts, f"{clock(left / rate.speed)} left" if rate.speed and left else ""]))


@dataclass
class Show:
    """Called with every outcome, and with None when nothing is new. A context manager: the display is taken down."""

    kind: Kind = "auto"
    out: TextIO = field(default_factory=lambda: sys.stdout)
    lines: dict[str, Line] = field(default_factory=dict)
    live: Any = None

    def __post_init__(self) -> None:
        if self.kind == "auto":
            self.kind = "live" if self.out.isatty() else "plain"

    def __enter__(self) -> Show:
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.update(self.table(), refresh=True)
            self.live.stop()
            self.live = None

    def begin(self, tasks: Sequence[Task], steps: Mapping[str, int]) -> None:
        """Tasks that will be run now."""
        for task in tasks:
            count = steps.get(task.name, 0)
            self.lines[task.name] = Line(task, count, Tail(task.said), Rate(count), Outcome(task.name, "waiting"))

    def message(self, text: str, event: str = "message") -> None:
        """A sentence for the person."""
        if self.kind == "json":
            self.json(event, message=text)
            print(f"studio: {text}", file=sys.stderr)
        elif self.live is not None:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.out, flush=True)

    def json(self, event: str, **fields: Any) -> None:
        """One JSON line."""
        line = {"time": round(time.time(), 3), "event": event, **{key: plain(value) for key, value in fields.items()}}
        print(json.dumps(line, ensure_ascii=False, allow_nan=False), file=self.out, flush=True)

    def __call__(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            line = self.lines[outcome.name]
            line.look()
            line.outcome = outcome
            self.tell(line)
        for line in self.lines.values():
            if line.outcome.status == "waiting":
                before, at = line.status, line.tail.at
                line.look()
                news = line.tail.at > at and time.time() - line.shown > QUIET_SECONDS
                if self.kind != "live" and (line.status != before or news):
                    self.tell(line)
        if self.kind == "live":
            self.draw()

    def tell(self, line: Line) -> None:
        """A line about one task, where lines are shown."""
        line.shown = time.time()
        if self.kind == "json":
            event = {"phase": line.last.phase, "step": line.last.step} if line.last else {}
            known = {key: value for key, value in asdict(line.outcome).items() if value not in ("", 0)}
            known |= {"cell": line.task.name, "status": line.status, "steps": line.steps, **event}
            self.json("cell", **known)
        elif self.kind == "plain":
            done = sum(one.outcome.status == "done" for one in self.lines.values())
            at = time.strftime("%H:%M:%S")
            print(f"{at} [{done}/{len(self.lines)}] {line.task.name}: {line.status} {line.words()}".rstrip(),
                  file=self.out, flush=True)  # fmt: skip

    def draw(self) -> None:
        """The table anew."""
        if self.live is None:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(file=self.out), refresh_per_second=4, transient=False)
            self.live.start()
        self.live.update(self.table())

    def table(self) -> Any:
        """Running tasks one by one, the others as counts."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False)
        count = {status: sum(line.status == status for line in self.lines.values()) for status in STYLES}
        table.add_row("cells", ", ".join(f"{number} {status}" for status, number in count.items() if number), "")
        for line in self.lines.values():
            if line.status in ("running", "failed"):
                table.add_row(line.task.name, Text(line.status, STYLES[line.status]), Text(line.words()))
        return table
