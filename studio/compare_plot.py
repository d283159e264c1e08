"""A comparison in one picture: identity against prompt accuracy, a point per setting, the Pareto front through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studio.compare_config import Judging
from studio.compare_table import Key, Number, Row
from studio.evaluation.page_roles import headline, role
from studio.evaluation.plots import Point, front
from studio.evaluation.records import Evaluation
from studio.registry import nearest

ROLES = ("identity", "prompt", "diversity", "copy", "drift", "leak")  # what the printed table shows
SIDE = 6.4  # inches


def headlines(evaluation: Evaluation, rows: Sequence[Row], judging: Judging) -> dict[str, Key]:
    """The number that answers each question, by the question; of those that rows have."""
    asked = {"identity": judging.identity, "prompt": judging.accuracy}
    labels = [cell for row in rows for cell in row.cells]
    found: dict[str, Key] = {}
    for question in ROLES:
        score = headline(evaluation, question, labels[0]) if labels else None
        name = asked.get(question) or (score.about.name if score and role(score.about.name).key == question else "")
        keys = [key for row in rows for key in row.numbers if key[0] == name]
        if keys:
            found[question] = min(keys, key=lambda key: (key[2] != "", key[2]))
    return found


def absent(rows: Sequence[Row], judging: Judging) -> list[str]:
    """A sentence for each number that the config wants on an axis and that nobody has taken."""
    known = {key[0] for row in rows for key in row.numbers}
    wanted = {"identity": judging.identity, "accuracy": judging.accuracy}
    return [
        f"[evaluation] {axis} = '{name}': there is no such number{nearest(name, known)}; there are {sorted(known)}"
        for axis, name in wanted.items()
        if name and known and name not in known
    ]


def pareto(rows: Sequence[Row], across: Key, up: Key, file: Path) -> bool:
    """Write the plot; False where fewer than two settings have both numbers. Intervals are drawn as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if across in row.numbers and up in row.numbers]
    if not shown:
        return False
    figure = Figure(figsize=(SIDE * 1.25, SIDE), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    points = [point(row.setting, row.numbers[across], row.numbers[up]) for row in shown]
    for number, one in enumerate(points, 1):
        bars = {"xerr": error(one.x), "yerr": error(one.y)}
        axes.errorbar(*one.at, **bars, fmt="o", capsize=2, elinewidth=0.8, label=f"{number}  {one.label}")
        axes.annotate(str(number), one.at, textcoords="offset points", xytext=(5, 5), fontsize="small")
    first = shown[0].numbers
    if first[across].base is not None and first[up].base is not None:
        axes.plot(first[across].base, first[up].base, "k*", markersize=11, label="base model")
    signs = [1 if first[key].better == "higher" else -1 for key in (across, up)]
    line = front(points, *signs)
    axes.plot(*zip(*(one.at for one in line), strict=True), ":", color="gray", label="Pareto front", zorder=0)
    for key, axis in ((across, axes.set_xlabel), (up, axes.set_ylabel)):
        axis(f"{key[0]} ({first[key].better} is better)")
    figure.legend(loc="outside lower left", fontsize="small", frameon=False)
    figure.savefig(file, dpi=150)
    return True


def point(label: str, across: Number, up: Number) -> Point:
    """A setting in the plane."""
    return Point(label, (across.value, across.low, across.high), (up.value, up.low, up.high))


def error(value: tuple[float, float, float]) -> list[list[float]] | None:
    """How far an interval reaches to both sides; None where there is none."""
    middle, low, high = value
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return [[max(0.0, middle - low)], [max(0.0, high - middle)]]
