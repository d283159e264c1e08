"""What happens in a run, one line each: read by the progress display, `--json` and the run folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.secrets import redact

PHASES = ("load", "cache", "train", "score", "preview", "export", "check")


@dataclass(frozen=True)
class Event:
    """One thing that happened: numbers of a step, or a named event with its fields.

    phase: one of PHASES; step: optimizer steps done; numbers: floats or one-element tensors, by name;
    event: '' or "progress" (fields done, total; of scores also what, round, rounds, since), "preview", "checkpoint",
    "deleted", "warning", "message",
    "audit" (what learns), "score" (of a checkpoint), "choice" (the best one), "accepted" (changes), "plan", "memory",
    "ended" (by itself), "stopped", "failed", "done"; time: unix seconds. The numbers of a step on a CPU have a field
    busy: seconds of processor that this process has taken, which other processes on the machine do not lengthen.
    """

    phase: str
    step: int = 0
    numbers: Mapping[str, Any] = field(default_factory=dict)
    event: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def __getitem__(self, key: str) -> Any:
        return self.as_dict()[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the line, or `default`."""
        return self.as_dict().get(key, default)

    def as_dict(self) -> dict[str, Any]:
        """The object of the event's JSON line."""
        line: dict[str, Any] = {"time": round(self.time, 3), "phase": self.phase, "step": self.step}
        if self.numbers:
            line["numbers"] = {name: finite(float(value)) for name, value in self.numbers.items()}
        if self.event:
            line["event"] = self.event
        return line | {key: plain(value) for key, value in self.fields.items() if key not in line}

    def line(self) -> str:
        """The event as one JSON line, without the line end."""
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)

    @staticmethod
    def read(line: str) -> Event:
        """The event of a JSON line; ValueError when it is not one."""
        values = json.loads(line)
        if not isinstance(values, dict) or "phase" not in values:
            raise ValueError("not an event")
        known = {key: values.pop(key) for key in ("phase", "step", "numbers", "event", "time") if key in values}
        return Event(**known, fields=values)


def finite(value: float) -> float | str:
    """JSON has no word for inf and nan: they are written as text, which `float()` reads."""
    return value if math.isfinite(value) else str(value)


def plain(value: Any) -> Any:
    """The JSON form of a field."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, (int, bool, type(None))):
        return value
    return redact(str(value)).encode("utf-8", "backslashreplace").decode()  # file names need not be Unicode


def append(path: Path, event: Event) -> None:
    """Adds the event's line to a file and flushes it; a line torn by a crash is closed first."""
    with path.open("ab+") as file:
        end = file.seek(0, 2)
        file.seek(max(end - 1, 0))
        torn = end > 0 and file.read(1) != b"\n"
        file.write(("\n" if torn else "").encode() + event.line().encode() + b"\n")


def read(path: Path, after: int = 0) -> Iterator[Event]:
    """The events of a file from line `after` on; lines torn by a crash are left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file):
            if number < after or not line.strip():
                continue
            try:
                yield Event.read(line)
            except ValueError:
                continue
