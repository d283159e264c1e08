"""The checkpoints and strengths of a run as a picture: identity against prompt accuracy, with the Pareto front."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from studio.choice import Ranking, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(final: Ranking, base: tuple[float, float], title: str, path: Path) -> Path:
    """Write the plot of all candidates. base: the base model's identity and prompt share."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    draw(axes, final, base)
    axes.set(xlabel="prompt accuracy, %", ylabel="identity", title=title)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return path


def draw(axes: Axes, final: Ranking, base: tuple[float, float]) -> None:
    """Every candidate once, all by equally many pictures; the front is of all that are drawn."""
    x, y = final.means["prompt"] * 100, final.means["identity"]
    full = [one for one, marks in enumerate(final.marks) if marks.strength == 1]
    other = [one for one, marks in enumerate(final.marks) if marks.strength != 1]
    axes.plot(x[full], y[full], color="lightsteelblue", zorder=1, gid="course")
    steps = [final.marks[one].step for one in full]
    axes.scatter(x[full], y[full], c=steps, cmap="viridis", s=45, zorder=3, label="checkpoints", gid="checkpoints")
    if other:
        axes.scatter(
            x[other], y[other], marker="d", s=22, color="gray", zorder=2, label="other strengths", gid="others"
        )
    for one, marks in enumerate(final.marks):
        words, size = (str(marks.step), 8) if marks.strength == 1 else (f"{marks.step} x{marks.strength:g}", 6)
        axes.annotate(words, (x[one], y[one]), (5, 4), textcoords="offset points", fontsize=size)
    front = sorted(final.front(), key=lambda one: (x[one], -y[one]))
    axes.plot(x[front], y[front], "--", color="darkorange", linewidth=1, zorder=2, label="Pareto front", gid="front")
    axes.scatter(base[1] * 100, base[0], marker="x", color="black", label="base model")
    one = final.pick()
    label, edge = f"recommended: {final.marks[one].label}", "crimson"
    axes.scatter(x[one], y[one], 220, marker="*", facecolors="none", edgecolors=edge, linewidths=1.6, label=label)
    contours(axes, final.scale)


def contours(axes: Axes, scale: Scale) -> None:
    """Lines of equal points, inside the part that is shown."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    kept, identity = np.meshgrid(np.linspace(left, right, 60), np.linspace(low, high, 60))
    worth = scale.points(identity, np.clip(kept / 100, 0, 1))
    if np.ptp(worth) > 1:
        lines = axes.contour(kept, identity, worth, levels=8, colors="gainsboro", linewidths=0.6, zorder=0)
        axes.clabel(lines, fontsize=6, fmt="%.0f")
