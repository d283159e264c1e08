"""What report.html shows of a run by rewards: what became of it, and a curve for each number that its guard saw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from studio.evaluation import plots
from studio.evaluation.page_private import clean
from studio.reward_course import Course, Panel
from studio.reward_reading import read


def story(course: Course) -> str:
    """What became of the run, in a sentence."""
    if course.stop:
        step, why = course.stop
        return f"The guard ended the run at step {step}{': ' if why else ''}{clean(why)}."
    looked = f"{course.looks} time{'s' if course.looks != 1 else ''}"
    best = "" if course.best is None else f" Its best look was that of step {course.best}."
    return f"The guard looked {looked} and found no reason to end the run.{best}"


def section(folder: Path | None) -> dict[str, Any] | None:
    """What report.html shows of a run by rewards: its story, and a curve per number; None where no guard has looked."""
    course = None if folder is None else read(folder)
    if course is None:
        return None
    return {"story": story(course), "charts": [chart(one) for one in course.panels()]}


def chart(one: Panel) -> dict[str, Any]:
    """A panel as an inline drawing, with the names of its lines where there are several."""
    title, names = clean(one.title), [clean(label) for label in one.lines]
    lines = [
        plots.Line(label, [(step, value, math.nan, math.nan) for step, value in points], number % 6)
        for number, (label, points) in enumerate(zip(names, map(thinned, one.lines.values()), strict=True))
    ]
    return {"name": title, "lines": names if len(names) > 1 else [], "drawing": plots.curve(lines, None, title)}


def thinned(points: list[tuple[int, float]], most: int = 100) -> list[tuple[int, float]]:
    """At most so many points, each the mean of its neighbours: a page need not hold ten thousand steps."""
    size = math.ceil(len(points) / most)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(group[len(group) // 2][0], sum(value for _, value in group) / len(group)) for group in groups]
