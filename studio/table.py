"""Rows of text in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest


def show(rows: Sequence[Sequence[str]], styles: Mapping[str, str] | None = None) -> None:
    """Prints rows: wrapped and coloured on a terminal (styles: by a cell's text), one line each elsewhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if console.is_terminal:
        table = Table(box=None, show_header=False, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell, (styles or {}).get(cell, "")) for cell in row))
        console.print(table)
        return
    widths = [max(map(len, cells)) for cells in zip_longest(*rows, fillvalue="")]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=False))
        print("  ".join(cells).rstrip())
