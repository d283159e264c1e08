"""`studio compare`: methods, settings and seeds side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from studio.commands.form import parse
from studio.pipelines.errors import UsageError
from studio.registry import nearest


@dataclass(frozen=True)
class Options:
    """Train methods x settings x seeds on the same data at equal cost, and compare what they learned.

    Every cell is a run of its own in RUNS/NAME, made by a process of its own; the same command goes on where an earlier
    one ended. Exit code 0 when all cells are done, else the first failed cell's.
    """

    config: tyro.conf.Positional[str] = ""
    """TOML file of the comparison; see assets/configs/compare.toml."""
    on: str = "local"
    """local, auto (a Ray cluster that is found, else one on this machine) or ray://HOST:PORT."""
    jobs: int = 0
    """Cells at once; 0: one per GPU, or one. On a cluster its own resources decide."""
    retries: int = 1
    """How often a failed cell is started again; it goes on from its last checkpoint."""
    timeout: float = 0.0
    """Minutes that one attempt of a cell may take; 0: no limit."""
    runs: Path = Path("runs")
    """Folder of the runs; on a cluster, one that every node shares."""
    dry_run: bool = False
    """List the cells with steps and estimated time, and do nothing."""
    json: bool = False
    """Events as JSON lines on stdout."""


def main(args: list[str]) -> int:
    """Runs `studio compare ARGS`."""
    options = parse(Options, args, "compare")
    check(options)
    from studio import compare, compare_dry, logs
    from studio.compare_show import Show

    logs.hush()
    file = Path(options.config)
    if options.dry_run:
        compare_dry.show(compare.Study.of(file, options.runs), max(1, options.jobs), options.json)
        return 0
    with Show("json" if options.json else "auto") as show:
        made = compare.compare(file, lambda: pool(options), show, options.runs, options.retries, options.timeout * 60)
    return made.code


def pool(options: Options) -> Any:
    """Where the cells run. Raises UsageError where Ray is not installed or does not answer."""
    if options.on == "local":
        import torch

        from studio.compare_local import Local

        gpus = torch.cuda.device_count()
        return Local(options.jobs or max(1, gpus), gpus)
    from studio.compare_ray import Ray

    return Ray(options.on, max(1, options.jobs))


def check(options: Options) -> None:
    """Raises UsageError for values that cannot be."""
    if not options.config:
        raise UsageError("compare needs the TOML file of a comparison; see assets/configs/compare.toml")
    for name, least in (("jobs", 0), ("retries", 0), ("timeout", 0)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} = {getattr(options, name)}: should be greater than or equal to {least}")
    if options.on not in ("local", "auto") and not options.on.startswith("ray://"):
        hint = nearest(options.on, ["local", "auto", "ray://"])
        raise UsageError(f"--on {options.on}: should be local, auto or ray://HOST:PORT{hint}")
