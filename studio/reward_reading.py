"""The course of a run by rewards, out of its events."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from studio import events
from studio.events import Event
from studio.reward_course import ASIDE, BACK, BEST, HELD, START, Course


def read(folder: Path) -> Course | None:
    """The course of a run's folder; None where no guard has looked."""
    return course(events.read(folder / "events.jsonl"))


def course(found: Iterable[Event]) -> Course | None:
    """The course of events; of a step that was done again the last one counts."""
    values: dict[str, dict[int, float]] = {}
    best: int | None = None
    back: int | None = None
    stop: tuple[int, str] | None = None
    for event in found:
        if event.event == "ended":
            stop = (event.step, str(event.fields.get("message", "")))
        elif event.numbers and event.phase == "train":
            for name, value in event.numbers.items():
                note(values, name, event.step, float(value))
            best, back = (whole(event, BEST, best), whole(event, BACK, None))
            stop = None if back is None else (event.step, "")  # a run that went on after a stop has not ended there
    if ASIDE not in values and not any(name.startswith(HELD) for name in values):
        return None
    return Course(values, best if back is None else back, stop, back)


def whole(event: Event, name: str, default: int | None) -> int | None:
    """A step that is among an event's numbers."""
    return int(float(event.numbers[name])) if name in event.numbers else default


def note(values: dict[str, dict[int, float]], name: str, step: int, value: float) -> None:
    """A number of a step; those of the start are step 0's."""
    if name.startswith(START):
        name, step = name.removeprefix(START), 0
    if math.isfinite(value):
        values.setdefault(name, {})[step] = value
