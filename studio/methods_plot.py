"""Prompt accuracy against identity: a panel per experiment, a point per row with its intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.compare_plot import error
from studio.methods_claims import interval
from studio.methods_values import IDENTITY, TEXT, Table, called

WIDE, HIGH = 7.6, 4.2  # inches of a panel
ACROSS = 2  # panels


def write(tables: Mapping[str, Table], file: Path) -> bool:
    """One picture with a panel per experiment that has both numbers; False, and no file, without one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {name: rows for name, table in tables.items() if (rows := both(table))}
    if not shown:
        return False
    lines = math.ceil(len(shown) / ACROSS)
    figure = Figure(figsize=(WIDE * min(ACROSS, len(shown)), HIGH * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, rows) in enumerate(shown.items(), 1):
        panel(figure.add_subplot(lines, min(ACROSS, len(shown)), number), name, rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    return True


def both(table: Table) -> Table:
    """The rows that have both numbers."""
    return {label: row for label, row in table.items() if called(row.get(TEXT, {})) and called(row.get(IDENTITY, {}))}


def panel(axes: Any, name: str, rows: Table) -> None:
    """One experiment; rows that differ in a number alone (rank, w_con) are joined by a line."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for label, row in rows.items():
        across, up = (interval(called(row[number]))[:3] for number in (TEXT, IDENTITY))
        axes.errorbar(across[0], up[0], xerr=error(across), yerr=error(up), fmt="o", capsize=2, label=label)
        lines.setdefault(re.sub(r"[\d.]+$", "", label), []).append((across[0], up[0]))
    for points in lines.values():
        if len(points) > 1:
            axes.plot(*zip(*points, strict=True), ":", color="gray", zorder=0)
    axes.set(title=name, xlabel="prompt accuracy", ylabel="identity")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
