"""What demo-sized runs learn: subjects x seeds, each beside the base model, by the embedded judges."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from studio.config import layer, make
from studio.flags import demo
from studio.train import train


def run(subjects: Sequence[str], seeds: Sequence[int], out: Path, console: Console) -> None:
    """Train every pair (finished ones are kept) and print the table; resumable by the same command."""
    table = Table(
        "subject", "seed", "seconds", *(f"{name} (base)" for name in ("image", "attributes", "prompt accuracy"))
    )
    gains: dict[str, list[float]] = {}
    for subject in subjects:
        for seed in seeds:
            began = time.monotonic()
            flags = {
                "run": f"{subject}-{seed}",
                "runs": out,
                "seed": seed,
                "settings": {"data": {"folder": f"subject:{subject}"}},
            }
            folder = train(make(toml=layer(demo()), flags=flags, file=str(demo())))
            spent = time.monotonic() - began
            file = folder / "seconds.txt"
            if not file.exists():
                file.write_text(f"{spent:.0f}\n")
            found = json.loads((folder / "scores.json").read_text())
            cells = [f"{score['value']:.3f} ({score['base']:.3f})" for score in found.values()]
            table.add_row(subject, str(seed), file.read_text().strip(), *cells)
            for name, score in found.items():
                gains.setdefault(name, []).append(score["value"] - score["base"])
            console.print(f"{subject} {seed}: " + ", ".join(cells))
    console.print(table)
    for name, values in gains.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        console.print(
            f"{name}: mean change {statistics.mean(values):+.3f}, spread {spread:.3f}, "
            f"worst {min(values):+.3f}, n {len(values)}"
        )
