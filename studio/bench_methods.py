"""`python -m studio.bench methods`: the page of the papers' orderings, from a comparison that may be unfinished."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from studio import compare, compare_prices, methods_orderings, methods_page, methods_plot, methods_values
from studio.pipelines.errors import UsageError


def run(config: Path, runs: Path, out: Path, console: Console) -> Path:
    """Write a page of the config's name (methods.md) and its plot into `out`; its path. config: the comparison's file.

    Raises UsageError for a comparison without experiments.
    """
    study = compare.Study.of(config, runs)
    if not study.comparison.experiments:
        raise UsageError(f"{config} has no [[experiment]]: its results are in results.json")
    study.prices = compare_prices.plain(study.cells)
    study.budgeted()
    tables = methods_values.tables(study)
    page = out / f"{config.stem}.md"
    plot = page.with_suffix(".png")
    spoken = {name: table for name, table in tables.items() if name in methods_orderings.BY_EXPERIMENT}
    shown = methods_plot.write(spoken, plot)
    methods_page.write(study, tables, page, said(config), plot.name if shown else "")
    console.print(f"wrote {page}")
    return page


def said(config: Path) -> str:
    """The config as a page may name it: no folder of this machine."""
    beside = os.path.relpath(config)
    return config.name if beside.startswith("..") else Path(beside).as_posix()
