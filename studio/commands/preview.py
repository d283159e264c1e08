"""`studio preview`: a run's previews, by its newest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from studio.commands.form import parse
from studio.pipelines.errors import UsageError


@dataclass(frozen=True)
class Options:
    """Draw a run's previews with its newest checkpoint, finished or not: the same prompts and seeds, into samples/."""

    run: tyro.conf.Positional[str] = ""
    """Name of the run, or its folder."""
    runs: Path = Path("runs")
    """Folder of the runs."""


def main(args: list[str]) -> int:
    """Runs `studio preview ARGS`."""
    options = parse(Options, args, "preview")
    if not options.run:
        raise UsageError("preview needs the name of a run; `studio list runs` names all")
    from studio.store import Store

    run = Store(options.runs).open(options.run)
    from studio.previews_newest import draw  # torch: after all that can be refused without it

    for path in draw(run):
        print(path)
    return 0
