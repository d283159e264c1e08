"""A run's numbers by step while it runs: lines thin enough to draw, and for runs by rewards what their guard saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from studio.events import Event
from studio.reward_course import ASIDE, BACK, BEST, HELD, TRAINING, Course, Points
from studio.reward_reading import note, whole
from studio.reward_section import thinned

MOST = 400  # points of a line on the page
EACH, MEAN = "each step", "running mean"
COLUMNS = ("step", "value", "line")
BLUE, ORANGE = "#4c78a8", "#f58518"
SECOND = (MEAN, "held-out prompts", "across prompts")  # lines that are drawn beside another one
FIRST = (EACH, TRAINING, "within a prompt", "all", "kl", "value")
COLOURS = dict.fromkeys(FIRST, BLUE) | dict.fromkeys(SECOND, ORANGE)


@dataclass
class Numbers:
    """values: number -> step -> value; last: the newest step; best, back, stop: as the guard's `Course` has them."""

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    last: int = 0
    best: int | None = None
    back: int | None = None
    stop: tuple[int, str] | None = None

    def take(self, event: Event) -> None:
        """A step's numbers, or the guard's word that the run ended.

        A run that goes on from an earlier checkpoint does steps again: what was noted from there on is dropped.
        """
        if event.event == "ended":
            self.stop = (event.step, str(event.fields.get("message", "")))
            return
        if event.step <= self.last:
            self.values = {
                name: {step: value for step, value in found.items() if step < event.step}
                for name, found in self.values.items()
            }
        self.last = event.step
        for name, value in event.numbers.items():
            note(self.values, name, event.step, float(value))
        self.best, self.back = whole(event, BEST, self.best), whole(event, BACK, None)
        self.stop = None if self.back is None else (event.step, "")

    def names(self) -> list[str]:
        """The numbers there are, in the order in which they came."""
        return [name for name, found in self.values.items() if found]

    @property
    def main(self) -> str:
        """What the run is about: the reward of a run by rewards, else the loss."""
        return "reward" if self.values.get("reward") else "loss"

    def points(self, name: str) -> Points:
        """A number over steps, at most MOST points, each the mean of its neighbours."""
        return thinned(sorted(self.values.get(name, {}).items()), MOST) if self.values.get(name) else []

    def course(self) -> Course | None:
        """What the guard of a run by rewards saw; None where none has looked."""
        if ASIDE not in self.values and not any(name.startswith(HELD) for name in self.values):
            return None
        return Course(self.values, self.best if self.back is None else self.back, self.stop, self.back)

    def each(self) -> Points:
        """The main number at every step that has one."""
        return sorted(self.values.get(self.main, {}).items())

    def curve(self) -> dict[str, Points]:
        """The main number, with its running mean: from the first step on, for a plot learns no line's colour later."""
        found = smooth(self.each())
        every = math.ceil(len(found) / MOST) or 1
        return {EACH: self.points(self.main), MEAN: found[(len(found) - 1) % every :: every]}  # its end is `mean`

    def mean(self) -> tuple[float, int] | None:
        """Where the running mean ends, and over how many steps it goes; None before the first step."""
        found = self.each()
        part = found[-span(len(found)) :]
        return (sum(value for _, value in part) / len(part), len(part)) if part else None

    def panels(self) -> list[tuple[str, dict[str, Points]]]:
        """What the guard of a run by rewards saw, as a title and its lines, each; [] where none has looked."""
        course = self.course()
        shown = [] if course is None else list(course.panels())
        return [(one.title, {label: thinned(line, MOST) for label, line in one.lines.items()}) for one in shown]


def span(count: int) -> int:
    """Over how many steps the running mean goes: enough to see through the noise of a loss."""
    return max(20, min(100, count // 10))


def smooth(points: Points) -> Points:
    """The mean of each point and those before it, over a span."""
    sums, window = list(accumulate((value for _, value in points), initial=0.0)), span(len(points))
    starts = (max(0, end - window) for end in range(1, len(sums)))
    parts = ((sums[end] - sums[start]) / (end - start) for end, start in enumerate(starts, 1))
    return [(step, mean) for (step, _), mean in zip(points, parts, strict=True)]


def named(title: str, lines: Iterable[str], over: int = 0) -> str:
    """`diversity: blue within a prompt, orange across prompts`: the page's line plot cuts its own legend off.

    over: the steps that a running mean goes over.
    """
    known = {MEAN: f"mean of {over} steps"} if over else {}
    marks = [f"{'orange' if name in SECOND else 'blue'} {known.get(name, name)}" for name in lines]
    return f"{title}: {', '.join(marks)}" if len(marks) > 1 else title


def drawing(lines: Mapping[str, Iterable[tuple[int, float]]]) -> dict[str, Any] | None:
    """Lines as the page's line plot takes them: a table of step, value and the line's name; None without a point.

    Nine digits: an axis is fitted to the points, and would make a cliff of a mean's last bit.
    """
    rows = [[step, float(f"{value:.9g}"), label] for label, points in lines.items() for step, value in points]
    kinds = dict(zip(COLUMNS, ("quantitative", "quantitative", "nominal"), strict=True))
    return {"columns": list(COLUMNS), "data": rows, "datatypes": kinds, "mark": "line"} if rows else None
