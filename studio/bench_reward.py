"""Rewards on the embedded model: `python -m studio.bench_reward queries|rlcm|truncation|guard|lcm|personal|all|page`.

Each cell is an ordinary run of `studio.train` in a folder of its own, measured when it is finished. The same command
goes on where it was stopped. `page` writes assets/benchmarks/reward.md from whatever is there.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from studio import bench_reward_config, bench_reward_fair, bench_reward_findings, bench_reward_lcm, bench_reward_measure
from studio import bench_reward_plot as plot
from studio import bench_reward_text as text
from studio.bench_reward_cells import Cell, cells, chain, find, minutes, trials, tries, winner
from studio.bench_reward_config import Study
from studio.bench_reward_summary import summary
from studio.compare_local import Local
from studio.compare_workers import Outcome, Task
from studio.pipelines.errors import StudioError, UsageError
from studio.registry import nearest
from studio.stop import STOPPED, listening
from studio.train import train

PAGE, LCM, ALL, CELL = "page", "lcm", "all", "cell"
MODULE, MEMORY = "studio.bench_reward", "reward_memory.md"


@dataclass(frozen=True)
class Bench:
    """Train, measure, compare; or write the page."""

    name: tyro.conf.Positional[str]
    """An experiment of the config (queries, rlcm, truncation, guard, personal), lcm, all, page, or cell."""
    cell: tyro.conf.Positional[str] = ""
    """For `cell`: which one, such as ddpo-size-0."""
    jobs: Annotated[int, tyro.conf.arg(help="Cells at once, a process each")] = 2
    dry_run: bool = False
    """List the cells with about how many minutes of one core each takes, and do nothing."""
    seeds: tuple[int, ...] = ()
    """Seeds of the runs; none: the config's."""
    config: Path = Path("assets/configs/reward.toml")
    """What is trained and compared."""
    out: Path = Path("build/bench/reward")
    """Where the runs are kept."""
    pages: Path = Path("assets/benchmarks")
    """Where the page goes."""


def run(bench: Bench, console: Console) -> int:
    """What was asked for; the exit code."""
    study = bench_reward_config.read(bench.config)
    if bench.name == PAGE:
        return page(bench, study, console)
    if bench.name == CELL:
        if bench.cell == LCM:
            return bench_reward_lcm.run(bench.out, bench.seeds or study.seeds, console)
        return one(find(study, bench.cell, bench.out, bench.config), console)
    asked = experiments(bench, study)
    names = recipes(study, asked)
    wanted = cells(study, names, bench.seeds or study.seeds, bench.out, bench.config)
    tried = trials(study, names, bench.out, bench.config)
    if bench.dry_run:
        few = bench_reward_lcm.missed(bench_reward_lcm.read(bench.out), bench.seeds or study.seeds)
        return listed([*tried, *wanted], bench, {LCM: bool(few)} if LCM in asked else {}, console)
    if code := together(tried, bench, False, console):  # what others have a setting from comes first
        return code
    return together(wanted, bench, LCM in asked, console)


def experiments(bench: Bench, study: Study) -> list[str]:
    """The experiments that are asked for. Raises UsageError for one that does not exist."""
    known = [*study.order, LCM]
    if bench.name == ALL:
        return known
    if bench.name not in known:
        hint = nearest(bench.name, [*known, ALL, PAGE, CELL])
        raise UsageError(f"there is no experiment '{bench.name}'{hint}; there are {', '.join([*known, ALL])}")
    return [bench.name]


def recipes(study: Study, asked: Sequence[str]) -> list[str]:
    """Their runs, each once: one that several experiments need is trained once."""
    return list(dict.fromkeys(name for experiment in asked for name in study.runs(experiment)))


def finished(cell: Cell) -> bool:
    """Trained, and every checkpoint measured."""
    if not cell.done or not cell.about.measured:
        return cell.done
    sheet = bench_reward_measure.Sheet.read(cell.run)
    return all(sheet.get(*place) is not None for place in bench_reward_measure.wanted(cell))


def listed(wanted: Sequence[Cell], bench: Bench, few: Mapping[str, bool], console: Console) -> int:
    """The cells with their times. A config that cannot be is an error here, before anything runs. few: lcm, and
    whether something of it is missing.
    """
    table, total = Table("cell", "trainer", "steps", "about minutes"), 0.0
    for cell in wanted:
        takes = 0.0 if finished(cell) else minutes(cell)
        total += takes
        said = f"{takes:.1f}" if takes else "done"
        table.add_row(cell.name, cell.about.trainer, str(cell.config.settings.steps), said)
    for name, missing in few.items():
        takes = bench_reward_lcm.MINUTES if missing else 0.0
        total += takes
        table.add_row(name, "", "", f"{takes:.1f}" if takes else "done")
    console.print(table)
    at_once = f"{total / bench.jobs:.0f} with {bench.jobs} jobs"
    console.print(f"{len(wanted) + len(few)} cells, about {total:.0f} minutes of one core, {at_once}")
    return 0


def together(wanted: Sequence[Cell], bench: Bench, lcm: bool, console: Console) -> int:
    """Every cell in a process of its own, so many at once; the exit code."""
    place: tuple[str, ...] = ("--config", str(bench.config), "--out", str(bench.out))
    place += ("--seeds", *map(str, bench.seeds)) if bench.seeds else ()
    rest = [*([LCM] if lcm else []), *(cell.name for cell in wanted if not finished(cell))]
    todo = [Task(name, (CELL, name, *place), bench.out, module=MODULE) for name in rest]
    console.print(f"{sum(map(finished, wanted))} of {len(wanted)} cells are done")
    failed: list[Outcome] = []
    with listening(None) as stop:
        stop.at_once = False
        for outcome in filter(None, Local(bench.jobs).run(todo, stop)):
            console.print(f"{outcome.name}: {outcome.status}, {outcome.seconds / 60:.1f} min {outcome.reason}".strip())
            failed += [outcome] if outcome.status == "failed" else []
        if stop():
            return STOPPED
    return failed[0].code if failed else 0


def one(cell: Cell, console: Console) -> int:
    """Train a cell, after those that it goes on from, and measure it. UsageError: its setting is still being tried."""
    for trial in () if cell.done else cell.study.tried(cell.recipe):
        place = (cell.study, cell.out, cell.file)
        if not winner(trial, *place):
            names, wanted = ", ".join(each.name for each in tries(trial, *place)), " and ".join(trial.settings)
            raise UsageError(f"cell {cell.name}: its {wanted} must come from {names}, which are not all done")
    for each in chain(cell):
        if not each.done:
            console.print(f"{each.name}: training, about {minutes(each):.1f} minutes")
            train(each.config)
    bench_reward_measure.measure(cell, console.print)
    return 0


def page(bench: Bench, study: Study, console: Console) -> int:
    """The page and its plot."""
    seeds = bench.seeds or study.seeds
    study = study.model_copy(update={"seeds": tuple(seeds)})
    wanted = cells(study, study.runs(), seeds, bench.out, bench.config)
    ready = [cell for cell in wanted if finished(cell)]  # half measured, a run would seem to end earlier
    if not ready and not bench_reward_lcm.read(bench.out):
        raise UsageError(f"{bench.out}: nothing is finished there, the page stays as it is; run `all` first")
    runs = bench_reward_findings.gather(ready)
    file = bench.pages / "reward.md"
    shown = plot.write(study, runs, file.with_suffix(".png"))
    done = len(ready), len(wanted)
    command = f"python -m studio.bench_reward all --jobs {bench.jobs}"
    about = f"Written by `python -m studio.bench_reward page` from `{command}`{machine(wanted)}."
    extra = list(bench_reward_lcm.lines(bench.out))
    if (bench.pages / MEMORY).is_file():
        extra += ["## memory", "", f"Measured apart, by allocations: [{MEMORY}]({MEMORY}).", ""]
    extra += bench_reward_fair.gpu(bench.pages)
    head = [*summary(study, runs, bench_reward_lcm.read(bench.out))]
    head += bench_reward_fair.tried(study, bench.out, bench.config)
    text.write(text.page(study, runs, done, about, f"{file.stem}.png" if shown else "", extra, head), file)
    console.print(f"wrote {file}")
    return 0


def machine(wanted: Sequence[Cell]) -> str:
    """`, 2026-11-22, 2 cores (x86_64), a thread each`: when the last cell ended, and on what; "" where none did."""
    ends = {last.time: cell for cell in wanted if cell.done and (last := cell.run.last("done"))}
    if not ends:
        return ""
    day = datetime.date.fromtimestamp(max(ends))
    on = json.loads((ends[max(ends)].run.folder / "env.json").read_text("utf-8"))["device"]
    cores = f"{on['cores']} cores ({on['cpu']}), threads of a run: {on['threads']}"
    return f", {day}, {on.get('gpu', 'no GPU')}, {cores}"


def main() -> int:
    """Run one experiment, or write the page."""
    bench = tyro.cli(Bench, prog="python -m studio.bench_reward", description=__doc__)
    try:
        return run(bench, Console(width=120))
    except StudioError as problem:
        print(f"studio: error: {problem}", file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        return STOPPED


if __name__ == "__main__":
    raise SystemExit(main())
