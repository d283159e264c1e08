"""`studio report`: a zip for a bug report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from studio.commands.form import parse
from studio.pipelines.confine import permitted
from studio.pipelines.errors import UsageError


@dataclass(frozen=True)
class Options:
    """Make a zip for a bug report: settings, events, log and environment, without pictures, captions, prompts,
    trigger words, secrets, names and paths. Look into it before you send it."""

    run: tyro.conf.Positional[str] = ""
    """Name of the run, or its folder."""
    out: Path | None = None
    """The file to write; studio-report-DATE.zip if not given."""
    runs: Path = Path("runs")
    """Folder of the runs."""


def main(args: list[str]) -> int:
    """Runs `studio report ARGS`."""
    options = parse(Options, args, "report")
    if not options.run:
        raise UsageError("report needs the name of a run; `studio list runs` names all")
    from studio import report
    from studio.store import Store

    out = permitted(options.out or report.default_name(), "--out")
    if out.suffix.lower() != ".zip" or out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: should be a file that ends in .zip, in a folder that exists")
    run = Store(options.runs).open(options.run)
    print("Looking at the run and at this machine; pictures, captions, prompts and weights stay out.")
    for name, size in report.write(run, out).items():
        print(f"  {name:<17} {size / 1024:8.1f} kB  {report.MEMBERS[name]}")
    print(f"{out}: look into it before you send it; the base model's hub name is in run.toml.")
    return 0
