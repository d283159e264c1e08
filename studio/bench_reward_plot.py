"""The curves of the benchmark of rewards: a panel per race and unit, a panel per sweep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from studio.bench_reward_config import Race, Study, Sweep
from studio.bench_reward_findings import DIVERSITY, Runs

WIDE, HIGH, ACROSS = 5.6, 3.6, 3  # inches of a panel; panels in a row
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def write(study: Study, runs: Runs, file: Path) -> bool:
    """One picture; False, and no file, where nothing is measured yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    every: list[Race | Sweep] = [*study.race, *study.sweep]
    panels = [one for one in every if any(runs.get(name) for name in named(one))]
    if not panels:
        return False
    lines = math.ceil(len(panels) / ACROSS)
    figure = Figure(figsize=(WIDE * min(ACROSS, len(panels)), HIGH * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for number, one in enumerate(panels, 1):
        axes: Any = figure.add_subplot(lines, min(ACROSS, len(panels)), number)
        if isinstance(one, Race):
            race(axes, study, one, runs)
        else:
            sweep(axes, study, one, runs)
        axes.legend(fontsize="small", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    return True


def named(one: Race | Sweep) -> tuple[str, ...]:
    """The runs of a panel."""
    return (one.run, one.against) if isinstance(one, Race) else one.runs


def race(axes: Any, study: Study, one: Race, runs: Runs) -> None:
    """The held-out number over its cost, a line per seed."""
    for colour, name in zip(COLOURS, named(one), strict=False):
        lines(axes, [(k.curve.along(one.unit), k.curve.values(one.number)) for k in runs.get(name, ())], colour,
              study.run[name].about)  # fmt: skip
    axes.set(title=f"{one.experiment}: {one.name}", xlabel=f"{one.unit} (logarithmic)", ylabel=one.number)
    axes.set_xscale("symlog", linthresh=10)


def sweep(axes: Any, study: Study, one: Sweep, runs: Runs) -> None:
    """What is left of the diversity of one prompt's pictures, by step."""
    for colour, name in zip(COLOURS, one.runs, strict=False):
        curves = [(k.curve.along("step"), k.curve.values(DIVERSITY[0])) for k in runs.get(name, ())]
        lines(axes, [(x, [value / y[0] for value in y]) for x, y in curves], colour, study.run[name].about)
    axes.axhline(one.collapse, color="gray", linestyle=":")
    axes.set(title=f"{one.experiment}: {one.name}", xlabel="steps", ylabel="diversity, share of the start's")


def lines(axes: Any, curves: list[tuple[list[float], list[float]]], colour: str, label: str) -> None:
    """Curves of one colour, named once."""
    for number, (x, y) in enumerate(curves):
        axes.plot(x, y, "o-", markersize=3, linewidth=1, color=colour, label=label if not number else None)
