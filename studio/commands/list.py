"""`studio list`: what there is. Never imports torch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tyro

from studio import registry
from studio.commands.form import parse
from studio.pipelines.errors import UsageError
from studio.store import Run, Store
from studio.table import show

Row = dict[str, str]


@dataclass(frozen=True)
class Options:
    """List trainers, models, scorers or runs."""

    kind: tyro.conf.Positional[str] = ""
    """trainers, models, scorers or runs."""
    runs: Path = Path("runs")
    """Folder of the runs."""
    json: bool = False
    """One JSON object per line."""


def main(args: list[str]) -> int:
    """Runs `studio list ARGS`."""
    options = parse(Options, args, "list")
    kinds = [*registry.DOORS, "runs"]
    if options.kind not in kinds:
        hint = registry.nearest(options.kind, kinds)
        raise UsageError(f"list needs one of {', '.join(kinds)}, not '{options.kind}'{hint}")
    rows = list(runs(Store(options.runs)) if options.kind == "runs" else choices(options.kind))
    if options.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    elif rows:
        show([list(row.values()) for row in rows])
        if options.kind == "models":
            print("Families (sd, sd3): give --model a diffusers folder, a .safetensors file or a hub id of one.")
    else:
        print(f"no {options.kind}" + (f" in {options.runs}" if options.kind == "runs" else ""))
    return 0


def choices(kind: str) -> Iterable[Row]:
    """The rows of a registry kind."""
    for entry in registry.describe(kind):
        numbers = f" Numbers: {', '.join(entry.numbers)}" if entry.numbers else ""
        said = f"cannot be used: {entry.error}" if entry.error else entry.summary + numbers
        yield {"name": entry.name, "what": said}


def runs(store: Store) -> Iterable[Row]:
    """The rows of the runs, newest first."""
    for run in store.list():
        try:
            yield row(run)
        except Exception as error:  # one broken folder must not hide the others
            yield {"name": run.name, "state": f"cannot be read: {' '.join(str(error).split())}"}


def row(run: Run) -> Row:
    """One run."""
    what = run.summary()
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.config_file.stat().st_mtime))
    steps = max((event.step for event in run.events()), default=0)
    progress = f"{steps}/{what['steps']}"
    return {
        "name": run.name,
        "state": run.state(),
        "steps": progress,
        "trainer": str(what["trainer"]),
        "model": str(what["model"]),
        "started": changed,
    }
