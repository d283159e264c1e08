"""What a comparison will take, before it starts: its cells with their steps and estimated times."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from studio import compare_effort, compare_prices, plan, table
from studio.compare_cells import Cell
from studio.pipelines.errors import StudioError
from studio.plan import Plan
from studio.rate import clock

if TYPE_CHECKING:
    from studio.compare import Study


@dataclass(frozen=True)
class Line:
    """One cell. seconds: about, None where nobody can say; problem: why it will not run."""

    cell: str
    steps: int
    seconds: float | None
    problem: str = ""


def show(study: Study, jobs: int, as_json: bool = False) -> None:
    """Print the cells; nothing is written. jobs: cells at once."""
    lines = listed(study)
    total = sum(line.seconds or 0 for line in lines) / jobs
    if as_json:
        found = {"cells": [vars(line) for line in lines], "jobs": jobs, "seconds": total}
        print(json.dumps(found | compare_effort.rest(study), indent=1))
        return
    budget = study.comparison.budget
    rows = [["cell", "steps", "about", ""]]
    for line in lines:
        steps = str(line.steps) if line.steps else ""
        rows.append([line.cell, steps, "" if line.seconds is None else clock(line.seconds), line.problem])
    table.show(rows)
    each = f"{budget.amount:g} {budget.equal} each"
    print(f"{len(lines)} cells at {each}, about {clock(total)} of training with {jobs} at once")
    if study.comparison.experiments:
        print(compare_effort.said(study, total * jobs, jobs))


def listed(study: Study) -> list[Line]:
    """Every cell. Raises UsageError for a budget that does not pay for a step."""
    plans, problems = foreseen(study)
    if study.comparison.budget.equal == "calls":
        study.prices = compare_prices.counted(study.cells, None)
    else:
        study.prices = compare_prices.timed(compare_prices.plain(study.cells), study.cells)
    for setting, made in plans.items():
        if study.prices[setting].seconds is None:
            study.prices[setting] = replace(study.prices[setting], seconds=made.step)
    whole, study.cells = study.cells, [cell for cell in study.cells if cell.setting not in problems]
    study.budgeted()
    priced = {cell.name: cell for cell in study.cells}
    return [line(priced.get(cell.name), cell, plans, problems, study) for cell in whole]


def line(cell: Cell | None, unpriced: Cell, plans: dict[str, Plan], problems: dict[str, str], study: Study) -> Line:
    """One cell's line."""
    if cell is None:
        return Line(unpriced.name, 0, None, f"will not run: {problems[unpriced.setting]}")
    made, each = plans[cell.setting], study.prices[cell.setting].seconds or 0.0
    drawing = made.total - unpriced.steps * made.step  # its previews
    done = " (done)" if cell.run.state(cell.steps) == "done" else ""
    return Line(cell.name, cell.steps, 0.0 if done else cell.steps * each + drawing, done.strip(" ()"))


def foreseen(study: Study) -> tuple[dict[str, Plan], dict[str, str]]:
    """By setting: the plan of its run, or why it cannot run."""
    plans: dict[str, Plan] = {}
    problems: dict[str, str] = {}
    for cell in compare_prices.settings(study.cells):
        try:
            plans[cell.setting] = plan.of(cell.config)
        except StudioError as error:
            problems[cell.setting] = str(error)
    return plans, problems
