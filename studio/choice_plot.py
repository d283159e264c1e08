"""The checkpoints and strengths of a run as a picture: identity against prompt accuracy, with the Pareto front."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from studio.choice import Ranking, Scale


def plot(curve: Ranking, final: Ranking, base: tuple[float, float], title: str, path: Path) -> Path:
    """Write the plot. curve: checkpoints at strength 1; final: leading ones at several strengths; base: the base
    model's identity and prompt share.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    x, y = curve.means["prompt"] * 100, curve.means["identity"]
    axes.plot(x, y, color="lightsteelblue", zorder=1)
    axes.scatter(x, y, c=[marks.step for marks in curve.marks], cmap="viridis", s=45, zorder=3, label="checkpoints")
    for marks, across, up in zip(curve.marks, x, y, strict=True):
        axes.annotate(str(marks.step), (across, up), (5, 4), textcoords="offset points", fontsize=8)
    across, up = final.means["prompt"] * 100, final.means["identity"]
    axes.scatter(across, up, marker="d", s=22, color="gray", zorder=2, label="strengths of the leading ones")
    for marks, right, high in zip(final.marks, across, up, strict=True):
        axes.annotate(f"x{marks.strength:g}", (right, high), (4, -9), textcoords="offset points", fontsize=6)
    front = sorted(final.front(), key=lambda one: across[one])
    axes.plot(across[front], up[front], "--", color="darkorange", linewidth=1, zorder=2, label="Pareto front")
    axes.scatter(base[1] * 100, base[0], marker="x", color="black", label="base model")
    one = final.pick()
    axes.scatter(across[one], up[one], marker="*", s=220, color="crimson", zorder=4, label=final.marks[one].label)
    contours(axes, curve.scale)
    axes.set(xlabel="prompt accuracy, %", ylabel="identity", title=title)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return path


def contours(axes: object, scale: Scale) -> None:
    """Lines of equal points, inside the part that is shown."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()  # type: ignore[attr-defined]
    kept, identity = np.meshgrid(np.linspace(left, right, 60), np.linspace(low, high, 60))
    worth = scale.points(identity, np.clip(kept / 100, 0, 1))
    if np.ptp(worth) > 1:
        lines = axes.contour(kept, identity, worth, levels=8, colors="gainsboro", linewidths=0.6, zorder=0)  # type: ignore[attr-defined]
        axes.clabel(lines, fontsize=6, fmt="%.0f")  # type: ignore[attr-defined]
