"""The end of a comparison: the table, results.json, results.csv, the plot and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from studio import compare_files, compare_plot, compare_table, plan_time
from studio.compare_cells import Cell
from studio.compare_config import Comparison
from studio.compare_cost import Price
from studio.compare_files import write
from studio.compare_show import Show
from studio.compare_table import Row
from studio.compare_workers import Outcome
from studio.evaluation.records import Evaluation

__all__ = ["finish", "write"]

PLOT, PAGE, JSON, CSV = "pareto.png", "compare.html", "results.json", "results.csv"


def finish(
    comparison: Comparison,
    folder: Path,
    cells: Sequence[Cell],
    outcomes: Mapping[str, Outcome],
    prices: Mapping[str, Price],
    evaluation: Evaluation,
    show: Show,
) -> list[Row]:
    """Write everything, print the table, return its rows."""
    done = [cell for cell in cells if outcomes[cell.name].status == "done"]
    seconds = {cell.name: plan_time.measured(cell.run) * cell.steps for cell in done}
    rows = compare_table.rows(cells, outcomes, prices, {k: v for k, v in seconds.items() if v}, evaluation)
    notes = [*evaluation.notes, *differences(done), *compare_plot.absent(rows, comparison.evaluation)]
    headlines = compare_plot.headlines(evaluation, rows, comparison.evaluation)
    about = {
        "name": comparison.name,
        "budget": comparison.budget.model_dump(),
        "compared_with": rows[0].setting,
        "headlines": {question: list(key) for question, key in headlines.items()},
        "notes": notes,
    }
    write(folder, JSON, compare_files.as_json(rows, **about))
    write(folder, CSV, compare_files.as_csv(rows))
    made = [JSON, CSV]
    if {"identity", "prompt"} <= set(headlines) and compare_plot.pareto(
        rows, headlines["prompt"], headlines["identity"], folder / PLOT
    ):
        made.append(PLOT)
    if evaluation.scores:
        from studio.evaluation import page

        page.write(evaluation, folder, folder / PAGE)
        made.append(PAGE)
    tell(rows, compare_files.table(rows, headlines), notes, [folder / name for name in made], show)
    return rows


def tell(
    rows: Sequence[Row], lines: Sequence[Sequence[str]], notes: Sequence[str], files: Sequence[Path], show: Show
) -> None:
    """What a person reads at the end; one JSON line for a program."""
    failures = compare_files.failures(rows)
    if show.kind == "json":
        show.json("done", files=[str(file) for file in files], failed=failures, notes=notes)
        return
    from studio import table

    show.__exit__()
    table.show(lines)
    if any("*" in cell for line in lines for cell in line):
        print(f"* surely other than {rows[0].setting}: its paired 95 % interval leaves out 0")
    for text in (*(f"failed: {line}" for line in failures), *notes):
        print(text)
    print(f"wrote {', '.join(str(file) for file in files)}")


def differences(cells: Sequence[Cell]) -> list[str]:
    """A sentence where cells were not trained on the same pictures or the same model: then nothing is comparable."""
    found = []
    bases = {cell.name: basis for cell in cells if (basis := cell.run.basis()) is not None}
    for what, kind in (("pictures", "pictures"), ("base model", "model")):
        seen = {str(getattr(basis, kind)) for basis in bases.values()}
        if len(seen) > 1:
            found.append(
                f"these cells are not comparable: they learned from {len(seen)} different states of the {what}"
            )
    return found
