"""assets/benchmarks/page.md: what `studio.bench_page` measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence

HEAD = """# How fluid the page is

`python -m studio.bench_page {rounds}`, {day}, {cores} cores ({machine}), Python {python}; the machine was {busy}.

Three servers at once, with libraries of one run, of one page ({tiles} runs) and of {runs} runs with {pictures:,}
pictures; a headless Chromium visits them in turn, {rounds} rounds. The runs are copies of one toy run that was really
trained (folders with config, events, checkpoints, adapter and previews; every picture is another one, 384 pixels wide).
Seconds are from the click, by the browser's driver, until every picture that the click asks for is loaded; medians. A
ratio of 1 says that the number of runs does not matter. In Watch and Compare a run is chosen by typing its name.

| what | 1 run, s | {tiles} runs, s | {runs} runs, s | {runs} to 1 | {runs} to {tiles} |
|---|--:|--:|--:|--:|--:|
"""
TAIL = """
A page of the library has {tiles} pictures, with one run a single one: *opened*, *cleared* and *next page* load {tiles}
pictures against one, so what the size of the library adds is the last column. *Next page* is set against *cleared*
where there is no second page.
In *Watch* the only run of a library is on show already when it is chosen, and only its state is drawn again: there too
the last column counts.

| first look, with {runs} runs in the library | value |
|---|--:|
| `studio ui` until the page answers | {start:.1f} s |
| page opened until the tabs are there | {seconds:.1f} s |
| requests | {requests:.0f} |
| transferred | {kib:,.0f} KiB |
"""


def text(
    medians: Mapping[str, Sequence[float]],
    rounds: int,
    library: tuple[int, int, int],
    weight: Mapping[str, float],
    start: float,
) -> str:
    """The page, in Markdown.

    medians: seconds with one run, a page of them, and many; library: runs, pictures, tiles of a page.
    """
    runs, pictures, tiles = library
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    about = {
        "rounds": rounds,
        "day": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "busy": f"busy with other work (load {load:.1f})" if load > 1.5 else f"quiet (load {load:.1f})",
    }
    head = HEAD.format(runs=runs, pictures=pictures, tiles=tiles, **about)
    rows = "".join(row(what, *times) for what, times in medians.items())
    return head + rows + TAIL.format(runs=runs, tiles=tiles, start=start, **weight)


def row(what: str, one: float, page: float, many: float) -> str:
    """A row of the table."""
    return f"| {what} | {one:.2f} | {page:.2f} | {many:.2f} | {many / one:.2f} | {many / page:.2f} |\n"
