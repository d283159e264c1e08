"""How fluid the page is: seconds from click to drawn with 200 runs in the library, as ratios to one run and to a page.

`python -m studio.bench_page [ROUNDS]` writes assets/benchmarks/page.md.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from studio.bench_page_library import library, trained
from studio.bench_page_text import text
from studio.bench_page_visit import Seconds, Visit
from studio.ui import shots
from studio.ui.library_pictures import pictures
from studio.ui.library_view import RUNS

MANY, ONE, ROUNDS = 200, 1, 5
PAGE = Path("assets/benchmarks/page.md")


@contextmanager
def served(runs: Path, log: Path) -> Iterator[tuple[str, float]]:
    """A page over a folder of runs: its address, and the seconds until it answered."""
    port, begun = shots.free_port(), time.perf_counter()
    command = [sys.executable, "-m", "studio", "ui", "--port", str(port), "--runs", str(runs)]
    with shots.running(command, port, log, env=dict(os.environ)):
        yield f"http://127.0.0.1:{port}/", time.perf_counter() - begun


def main(rounds: int = ROUNDS, many: int = MANY) -> None:
    """Builds the libraries, measures them in turn, and writes the page."""
    found: dict[int, Seconds] = {count: {} for count in (ONE, RUNS, many)}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        run = trained(home / "made")
        runs = {count: library(run, home / str(count), count) for count in found}
        total = sum(len(pictures(folder)) for folder in runs[many].iterdir())
        with ExitStack() as stack:
            pages = {count: stack.enter_context(served(runs[count], home / f"{count}.log")) for count in found}
            program = stack.enter_context(shots.browser())
            weight = shots.weigh(program, pages[many][0])
            for _ in range(rounds):
                for count, (address, _seconds) in pages.items():
                    view = program.new_page(viewport={"width": 1280, "height": 2400})
                    Visit(view, count, found[count]).all(address)
                    view.close()
    medians = {what: [statistics.median(found[count][what]) for count in found] for what in found[ONE]}
    start = min(seconds for _, seconds in pages.values())  # the others begin beside one that has begun
    said = text(medians, rounds, (many, total, min(RUNS, many)), weight, start)
    PAGE.write_text(said, "utf-8")
    print(said)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
