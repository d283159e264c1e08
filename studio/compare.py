"""`studio compare`: trainers x settings x seeds on the same data at equal cost, each cell a run of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from studio import compare_cost, compare_prices, compare_results, compare_rounds, compare_scoring, compare_union
from studio.compare_cells import Cell, plan
from studio.compare_config import Comparison, read
from studio.compare_cost import Price
from studio.compare_ray import forget
from studio.compare_show import Show
from studio.compare_table import Row
from studio.compare_workers import Outcome, Task
from studio.evaluation.records import Evaluation
from studio.pipelines.errors import UsageError
from studio.stop import Stop, listening
from studio.store import refuse_another

CONFIG, CELLS = "compare.toml", "cells.json"


class Pool(Protocol):
    """Runs tasks, `jobs` at once. nodes: on several machines, so that nothing but files is shared."""

    nodes: bool
    jobs: int

    def run(self, tasks: Sequence[Task], stop: Stop) -> Iterator[Outcome | None]: ...


@dataclass
class Study:
    """One comparison at work. prices: by setting; outcomes: by cell; unjudged: evaluations that failed;
    refused: cells of experiments whose run was made otherwise, and how.
    """

    comparison: Comparison
    file: Path
    folder: Path
    cells: list[Cell]
    prices: dict[str, Price] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    unjudged: dict[str, Outcome] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, file: Path, runs: Path) -> Study:
        """The comparison of a config; nothing is written. Raises UsageError and DataError in one line."""
        comparison = read(file)
        folder = runs.absolute() / comparison.name
        cells = (compare_union.cells if comparison.experiments else plan)(comparison, folder, file)
        cells[0].config.settings.data.listing()
        return cls(comparison, file, folder, cells)

    def budgeted(self) -> None:
        """Every cell with the steps its budget pays for.

        Raises UsageError where it pays for none, and without experiments where a run was made otherwise.
        """
        budget = self.comparison.budget
        self.cells = [
            cell.of(cell.own_steps or compare_cost.steps(budget, self.prices[cell.setting], cell.name))
            for cell in self.cells
        ]
        for cell in self.cells:
            if cell.run.config_file.exists():
                try:
                    refuse_another(cell.run, cell.config)
                except UsageError as problem:
                    if not self.comparison.experiments:
                        raise
                    self.refused[cell.name] = str(problem)

    @property
    def finished(self) -> list[Cell]:
        """Cells whose run is done."""
        ended = self.outcomes
        return [cell for cell in self.cells if cell.name in ended and ended[cell.name].status == "done"]

    @property
    def code(self) -> int:
        """The exit code: 0 when every cell is done and evaluated, else the first other one's."""
        others = [one for one in (*self.outcomes.values(), *self.unjudged.values()) if one.status != "done"]
        return next((one.code for one in others if one.code > 0), 1) if others else 0

    def keep(self) -> None:
        """Write down how the cells ended, once anything is known about them."""
        if not self.outcomes:
            return
        text = json.dumps([asdict(outcome) for outcome in self.outcomes.values()], indent=1) + "\n"
        compare_results.write(self.folder, CELLS, text)


@dataclass
class Effort:
    """How the cells are run. like: a task with the limits of all."""

    pool: Pool
    show: Show
    stop: Stop
    like: Task

    def run(self, tasks: Sequence[Task], steps: dict[str, int], heard: Callable[[Outcome], None]) -> None:
        """Run tasks, show them, tell every outcome to `heard`; Stopped once somebody asked to stop."""
        for task in tasks:
            task.said.unlink(missing_ok=True)  # what an earlier start said
        if not tasks:
            return
        self.show.begin(tasks, steps)
        for outcome in self.pool.run(tasks, self.stop):
            if outcome is not None:
                heard(outcome)
            self.show(outcome)
        self.stop.check()

    def train(self, cells: Sequence[Cell], heard: Callable[[Outcome], None]) -> None:
        """`studio train` for every cell."""
        files = [str(compare_prices.written(cell).file) for cell in cells]
        tasks = [
            replace(self.like, name=cell.name, words=("train", file, "--json"))
            for cell, file in zip(cells, files, strict=True)
        ]
        self.run(tasks, {cell.name: cell.steps for cell in cells}, heard)


def compare(
    file: Path,
    pool: Callable[[], Pool],
    show: Show,
    runs: Path = Path("runs"),
    retries: int = 1,
    timeout: float = 0.0,
) -> Study:
    """Train and evaluate every cell that is not finished. The same call goes on where an earlier one ended.

    pool: asked for when the words are known to be right. Raises UsageError and DataError before anything is trained;
    Stopped, with every state saved, when asked to stop.
    """
    study = Study.of(file, runs)
    with alone(study) as stop:
        effort = Effort(pool(), show, stop, Task("", (), study.folder, retries, timeout))
        try:
            untimed = price(study, effort)
            study.budgeted()
            recall(study, untimed)
            if study.comparison.experiments:
                compare_rounds.run(study, effort, train)
                return study
            train(study, effort, study.cells)
            evaluation = evaluate(study, effort)
        except KeyboardInterrupt:
            study.keep()
            done = len(study.finished)
            show.message(f"stopped: {done} of {len(study.cells)} cells are done; the same command goes on", "stopped")
            raise
        study.prices = compare_prices.counted(study.cells, study.folder)
        study.rows = compare_results.finish(
            study.comparison, study.folder, study.cells, study.outcomes, study.prices, evaluation, show
        )
    return study


@contextmanager
def alone(study: Study) -> Iterator[Stop]:
    """Inside, no other process works at the comparison, and requests to stop are heard."""
    from filelock import FileLock, Timeout

    study.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(study.folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(f"another process works at the comparison in {study.folder}: wait for it or stop it") from None
    try:
        forget(study.folder)
        compare_results.write(study.folder, CONFIG, study.file.read_text("utf-8-sig"))
        with listening(study.folder / "stop") as stop:
            stop.at_once = False  # the cells save their state first
            yield stop
    finally:
        lock.release()


def price(study: Study, effort: Effort) -> dict[str, str]:
    """What a step of every setting costs, as far as the budget asks; which settings could not be timed, and why."""
    equal = study.comparison.budget.equal
    count = compare_prices.counted if equal == "calls" else lambda cells, folder: compare_prices.plain(cells)
    study.prices = count(study.cells, study.folder)
    if equal != "seconds":
        return {}
    study.prices = compare_prices.timed(study.prices, study.cells)
    missing = [cell for cell in compare_prices.settings(study.cells) if study.prices[cell.setting].seconds is None]
    failed: dict[str, str] = {}
    if missing:
        effort.show.message(f"timing {compare_prices.TIMED} steps of each of {len(missing)} settings")

    def heard(outcome: Outcome) -> None:
        if outcome.status != "done":
            failed[outcome.name] = outcome.reason

    effort.train([compare_prices.short(cell) for cell in missing], heard)
    study.prices = compare_prices.timed(study.prices, study.cells)
    still = [cell for cell in missing if study.prices[cell.setting].seconds is None]
    untimed = {cell.setting: failed.get(compare_prices.identity(cell), "it left no times") for cell in still}
    for setting in untimed:  # one step, so that its cells have a plan like the others; they are not run
        study.prices[setting] = replace(study.prices[setting], seconds=study.comparison.budget.amount)
    return untimed


def recall(study: Study, untimed: Mapping[str, str]) -> None:
    """How the cells ended in earlier starts; a failed one is tried again. untimed: settings that cannot be run."""
    try:
        rows = json.loads((study.folder / CELLS).read_text("utf-8"))
        earlier = {row["name"]: Outcome(**row) for row in rows}
    except (OSError, ValueError, TypeError, KeyError):
        earlier = {}
    for cell in study.cells:
        before = earlier.get(cell.name, Outcome(cell.name, "waiting"))
        done = cell.run.state(cell.steps) == "done"
        outcome = replace(before, status="done" if done else "waiting", reason="", code=0)
        if cell.setting in untimed:
            reason = f"could not be timed: {untimed[cell.setting]}"
            outcome = replace(before, status="failed", reason=reason, code=1)
        if cell.name in study.refused:
            outcome = replace(before, status="failed", reason=study.refused[cell.name], code=UsageError.exit_code)
        study.outcomes[cell.name] = outcome


def train(study: Study, effort: Effort, cells: Sequence[Cell]) -> None:
    """Those of the cells that are not finished."""
    todo = [cell for cell in cells if study.outcomes[cell.name].status == "waiting"]
    done = len(study.finished)
    effort.show.message(f"{study.comparison.name}: {len(study.cells)} cells, {done} done before, in {study.folder}")

    def heard(outcome: Outcome) -> None:
        before = study.outcomes[outcome.name]
        study.outcomes[outcome.name] = replace(outcome, seconds=before.seconds + outcome.seconds)
        study.keep()

    effort.train(todo, heard)


def evaluate(study: Study, effort: Effort) -> Evaluation:
    """The finished cells' numbers: all in one process, or, where that fails and on several machines, one by one."""
    judging, cells = study.comparison.evaluation, study.finished
    if judging.skip or not cells:
        return Evaluation(notes=[] if judging.skip else ["nothing is evaluated: no cell is finished"])

    def heard(outcome: Outcome) -> None:
        if outcome.status != "done":
            study.unjudged[outcome.name] = outcome

    good: list[compare_scoring.Part] = []
    apart = effort.pool.nodes or effort.pool.jobs > 1 or len(cells) == 1
    for alone in (True,) if apart else (False, True):
        study.unjudged.clear()
        parts = compare_scoring.parts(cells, judging, study.folder, alone, effort.like)
        effort.run([part.task for part in parts if not compare_scoring.known(part)], {}, heard)
        good = [part for part in parts if part.task.name not in study.unjudged]
        for part in good:
            compare_scoring.stamped(part)
        if not study.unjudged:
            break
    found = compare_scoring.merged([part.out for part in good], study.folder)
    found.notes += [f"{name}: {outcome.reason}" for name, outcome in study.unjudged.items()]
    return found
