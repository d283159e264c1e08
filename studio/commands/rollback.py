"""`studio rollback`: a run by rewards, back at its guard's best look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from studio.commands.form import parse
from studio.pipelines.errors import UsageError


@dataclass(frozen=True)
class Options:
    """Write a run's adapter anew with the weights of its guard's best look; its checkpoints stay as they are."""

    run: tyro.conf.Positional[str] = ""
    """Name of the run, or its folder."""
    runs: Path = Path("runs")
    """Folder of the runs."""


def main(args: list[str]) -> int:
    """Runs `studio rollback ARGS`."""
    options = parse(Options, args, "rollback")
    if not options.run:
        raise UsageError("rollback needs the name of a run; `studio list runs` names all")
    from studio.store import Store

    run = Store(options.runs).open(options.run)
    from studio.rollback import roll_back  # torch: after all that can be refused without it

    step, files = roll_back(run)
    print(f"{run.name} is back at step {step}:", *files, sep="\n")
    return 0
