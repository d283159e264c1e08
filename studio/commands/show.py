"""`studio show`: one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from studio.commands.form import parse
from studio.pipelines.errors import UsageError


@dataclass(frozen=True)
class Options:
    """Show a run: its config, curve, samples and scores."""

    run: tyro.conf.Positional[str] = ""
    """Name of the run, or its folder."""
    runs: Path = Path("runs")
    """Folder of the runs."""


def main(args: list[str]) -> int:
    """Runs `studio show ARGS`."""
    options = parse(Options, args, "show")
    if not options.run:
        raise UsageError("show needs the name of a run; `studio list runs` names all")
    from studio.show import show

    show(options.run, options.runs)
    return 0
