"""Runs beside each other, by what their evaluations left on the disk: scores.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.evaluation import plots

MOST = 6  # runs beside each other
ACROSS = ("prompt-accuracy", "prompt accuracy", "prompt", "caption")  # of the plot, the best first
UPWARDS = ("identity", "subject similarity", "subject", "style")
NAN = math.nan


@dataclass(frozen=True)
class Mark:
    """A score of a run. low, high: its 95 % interval, NaN where there is none; base: the base model's value, NaN
    where it was not measured; kind: how it was measured: only numbers of one kind may be compared.
    """

    value: float
    low: float = NAN
    high: float = NAN
    base: float = NAN
    n: int = 0
    lower: bool = False
    kind: str = ""

    def text(self) -> str:
        """`0.838 (0.758 to 0.918)`."""
        between = f" ({self.low:.3f} to {self.high:.3f})" if math.isfinite(self.low + self.high) else ""
        return f"{self.value:.3f}{between}" if math.isfinite(self.value) else "-"

    def change(self) -> str:
        """`+0.096` to the base model; "" where that is not known."""
        gain = self.value - self.base
        return f"{gain:+.3f}" if math.isfinite(gain) else ""


@dataclass(frozen=True)
class Row:
    """A score of several runs. cells: (text, change to the base model, best of them) by run; warning: why its numbers
    may not be compared, "" where they may.
    """

    name: str
    cells: list[tuple[str, str, bool]]
    warning: str = ""


def marks(folder: Path) -> dict[str, Mark]:
    """The scores of a run's folder by name; {} where it was not evaluated, or the file is another's."""
    try:
        found = json.loads((folder / "scores.json").read_text("utf-8"))
        return {str(name): mark(row) for name, row in found.items() if isinstance(row, dict)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def stamp(folders: Sequence[Path]) -> list[list[float]]:
    """What changes when a comparison of these runs does: times of their scores, choices, reports and previews."""
    names = ("scores.json", "choice.json", "report.html", "samples")
    return [[(f / name).stat().st_mtime if (f / name).exists() else 0.0 for name in names] for f in folders]


def mark(row: dict[str, Any]) -> Mark:
    """A score as `scores.json` has it."""
    value, low, high, base = (number(row.get(key)) for key in ("value", "low", "high", "base"))
    kind = str(row.get("group") or row.get("encoder") or "")
    return Mark(value, low, high, base, int(row.get("n") or 0), row.get("better") == "lower", kind)


def number(value: Any) -> float:
    """null is NaN."""
    return float(value) if isinstance(value, (int, float)) else NAN


def table(folders: Sequence[Path]) -> list[Row]:
    """A row per score that any of the runs has: first the two of the plot, then those of all runs."""
    found = [marks(folder) for folder in folders]
    names = dict.fromkeys(name for one in found for name in one)
    first = {name: at for at, name in enumerate(reversed(usual(list(names)) or ()))}
    ordered = sorted(names, key=lambda name: (first.get(name, 2), -sum(name in one for one in found)))
    return [row(name, [one.get(name) for one in found]) for name in ordered]


def row(name: str, mine: Sequence[Mark | None]) -> Row:
    """One score of the runs; the best is marked where they are of one kind and clearly not all the same."""
    there = [one for one in mine if one is not None]
    mixed = len({one.kind for one in there}) > 1
    known = [one.value for one in there if math.isfinite(one.value)]
    lower = there[0].lower
    best = (min if lower else max)(known) if len(known) > 1 and not mixed and len(set(known)) > 1 else None
    cells = [("", "", False) if one is None else (one.text(), one.change(), one.value == best) for one in mine]
    warning = "measured in different ways: not comparable" if mixed else ""
    return Row(name + (" (lower is better)" if lower else ""), cells, warning)


def shared(folders: Sequence[Path]) -> list[str]:
    """What a plot may show: scores that two or more of the runs have (or the only one), measured in one way."""
    found = [marks(folder) for folder in folders]
    kinds: dict[str, list[str]] = {}
    for one in found:
        for name, mine in one.items():
            kinds.setdefault(name, []).append(mine.kind)
    return [name for name, rows in kinds.items() if len(rows) >= min(2, len(found)) and len(set(rows)) == 1]


def usual(names: Sequence[str]) -> tuple[str, str] | None:
    """The two scores of the plot: how well prompts are followed, and how much it is the subject; None without both."""
    across, upwards = (
        next((name for word in words for name in names if word in name), None) for words in (ACROSS, UPWARDS)
    )
    return (across, upwards) if across and upwards and across != upwards else None


def pareto(folders: Sequence[Path], across: str, upwards: str) -> str:
    """The plot as SVG: a point per run with its intervals, the base model, and the front that no other run beats."""
    rows = plane(folders, across, upwards)
    if not rows:
        return ""
    points = [plots.Point(name, spot(x), spot(y), series=at) for at, (name, (x, y)) in enumerate(rows.items())]
    bases = {(x.base, y.base): name for name, (x, y) in rows.items() if math.isfinite(x.base + y.base)}
    for (x, y), name in bases.items():
        label = "base" if len(bases) == 1 else f"base of {name}"
        points.append(plots.Point(label, (x, NAN, NAN), (y, NAN, NAN), "base"))
    return str(plots.pareto(points, (across, upwards), ways(rows)))


def plane(folders: Sequence[Path], across: str, upwards: str) -> dict[str, tuple[Mark, Mark]]:
    """The runs that have both scores, by name."""
    found = {folder.name: marks(folder) for folder in folders}
    return {name: (one[across], one[upwards]) for name, one in found.items() if across in one and upwards in one}


def ways(rows: Mapping[str, tuple[Mark, Mark]]) -> tuple[int, int]:
    """1 where more of a score is better, -1 where less is."""
    x, y = next(iter(rows.values()))
    return (-1 if x.lower else 1), (-1 if y.lower else 1)


def spot(one: Mark) -> tuple[float, float, float]:
    """A mark on an axis."""
    return one.value, one.low, one.high


def best(folders: Sequence[Path], across: str, upwards: str) -> str:
    """The runs on the front, in words; "" where there are not two to compare."""
    rows = plane(folders, across, upwards)
    if len(rows) < 2:
        return ""
    points = [plots.Point(name, spot(x), spot(y)) for name, (x, y) in rows.items()]
    names = [point.label for point in plots.front(points, *ways(rows))]
    return f"{names[0]} is best in both." if len(names) == 1 else f"No run beats these in both: {', '.join(names)}."
