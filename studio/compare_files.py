"""What a comparison leaves: results.json, results.csv, and the table a person reads."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studio.compare_table import Key, Number, Row
from studio.evaluation.records import tidy
from studio.rate import clock

NUMBERS = ("value", "spread", "low", "high", "runs", "base", "ahead", "ahead_low", "ahead_high")
COSTS = ("steps", "samples", "calls", "seconds", "total")


def as_json(rows: Sequence[Row], **about: Any) -> str:
    """Everything, as JSON; what is not a number is null. about: name, budget, notes, headlines."""
    found = [{**asdict(row), "numbers": [asdict(number) for number in row.numbers.values()]} for row in rows]
    return json.dumps(tidy({**about, "rows": found}), indent=1) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """A line per setting and number, one without a number for a setting that has none, one per cell that is missing."""
    varied = list(dict.fromkeys(key for row in rows for key in row.varied))
    head = ["setting", "trainer", *varied, "number", "set", "better", *NUMBERS, *COSTS, "cell", "reason"]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, head, restval="", lineterminator="\n")
    table.writeheader()
    for row in rows:
        common = {"setting": row.setting, "trainer": row.trainer, **row.varied}
        costs = common | {name: written(getattr(row, name)) for name in COSTS}
        for number in row.numbers.values():
            said = {"number": number.name, "set": number.set or "all", "better": number.better}
            table.writerow(costs | said | {name: written(getattr(number, name)) for name in NUMBERS})
        if row.cells and not row.numbers:
            table.writerow(costs)
        for cell, reason in row.missing.items():
            table.writerow(common | {"cell": cell, "reason": reason})
    return text.getvalue()


def written(value: float | int | None) -> str:
    """A number as the CSV holds it; '' for none."""
    return "" if value is None or not math.isfinite(value) else f"{value:.10g}"


def table(rows: Sequence[Row], headlines: Mapping[str, Key]) -> list[list[str]]:
    """The rows a person reads: per setting the headline numbers and the cost; failed cells below, with their reason."""
    head = ["setting", "runs", *(key[0] for key in headlines.values()), "steps", "calls", "training", "all"]
    lines = [head]
    bases = [next((row.numbers[key].base for row in rows if key in row.numbers), None) for key in headlines.values()]
    if any(base is not None for base in bases):
        lines.append(["base model", "", *("" if base is None else f"{base:.3f}" for base in bases), "", "", "", ""])
    for row in rows:
        count = f"{len(row.cells)}/{len(row.cells) + len(row.missing)}"
        figures = [said(row.numbers[key]) if key in row.numbers else "" for key in headlines.values()]
        calls = "" if row.calls is None else f"{row.calls:g}"
        times = [clock(value) if math.isfinite(value) else "" for value in (row.seconds, row.total)]
        lines.append([row.setting, count, *figures, str(row.steps), calls, *times])
    return lines


def failures(rows: Sequence[Row]) -> list[str]:
    """A line per cell that is missing."""
    return [f"{cell}: {reason}" for row in rows for cell, reason in row.missing.items()]


def said(number: Number) -> str:
    """`0.712 ±0.010 [0.690, 0.733]`, with a star where it surely differs from the first setting."""
    spread = f" ±{number.spread:.3f}" if math.isfinite(number.spread) else ""
    between = f" [{number.low:.3f}, {number.high:.3f}]" if math.isfinite(number.low) else ""
    sure = number.ahead_low is not None and number.ahead_high is not None and number.ahead_low * number.ahead_high > 0
    return f"{number.value:.3f}{spread}{between}{' *' if sure else ''}"


def write(folder: Path, name: str, text: str) -> None:
    """A text file of the comparison, written aside and renamed."""
    aside = folder / f".{name}.writing"
    aside.write_text(text, "utf-8")
    aside.replace(folder / name)
