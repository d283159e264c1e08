"""A run by rewards in one picture: what it was trained for beside what it was not, diversity and distance, by step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from studio.reward_course import TRAINING, Course, Panel
from studio.reward_reading import read
from studio.reward_section import story

NAME = "reward.png"
WIDE, HIGH, ACROSS = 4.4, 3.1, 3  # inches of a panel, panels in a row


def draw(folder: Path) -> Path | None:
    """Write `reward.png` into a run's folder: a panel per number, the stop and the roll-back marked. None, and no file,
    where no guard has looked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    course = read(folder)
    if course is None:
        return None
    panels = list(course.panels())
    across = min(ACROSS, len(panels))
    rows = math.ceil(len(panels) / across)
    figure = Figure(figsize=(WIDE * across, HIGH * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    for number, one in enumerate(panels, 1):
        panel(figure.add_subplot(rows, across, number), one, course, number == 1)
    figure.suptitle(story(course), fontsize="medium", wrap=True)
    file = folder / NAME
    aside = folder / f".{NAME}.part"
    try:
        figure.savefig(aside, dpi=110, format="png")
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    return file


def panel(axes: Any, one: Panel, course: Course, named: bool) -> None:
    """One panel; what every step noted is thin, what the guard saw has marks. named: stop and roll-back are."""
    for label, points in one.lines.items():
        steps, values = zip(*points, strict=True)
        style: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.7} if label == TRAINING else {"marker": ".", "zorder": 3}
        axes.plot(steps, values, label=label, **style)
    back = "gone back to" if course.back is not None else "best look"
    for step, label, style in (
        (course.stop[0] if course.stop else None, "stopped", {"color": "crimson"}),
        (course.best, back, {"color": "seagreen", "linestyle": "--"}),
    ):
        if step is not None:
            axes.axvline(step, linewidth=1, label=label if named else None, **style)
    axes.set_title(one.title, fontsize="medium")
    axes.set_xlabel("step")
    if named or len(one.lines) > 1:
        axes.legend(fontsize="x-small")
