"""assets/benchmarks/methods.md: per experiment a table with intervals and the papers' orderings with their verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from studio import compare_union, methods_orderings
from studio.compare_experiments import Experiment
from studio.methods_claims import Finding, Ordering, found, interval
from studio.methods_orderings import STYLE
from studio.methods_values import BOTH, CLIP_T, DRIFT, IDENTITY, NAMES, SILENT, TEXT, TRAITS, Numbers, Table, called

if TYPE_CHECKING:
    from studio.compare import Study

NOTES = "<!-- What follows is written by hand and kept when the page is written again. -->"
COLUMNS = {
    TEXT: NAMES[TEXT], CLIP_T: NAMES[CLIP_T], IDENTITY: NAMES[IDENTITY], TRAITS: NAMES[TRAITS], STYLE: STYLE,
    DRIFT: f"{NAMES[DRIFT]} (less is better)", "copy-similarity": "copy similarity (less is better)",
    BOTH: NAMES[BOTH],
}  # fmt: skip
SETS = ("recontext", "attribute", "composition", "style")
HOW = """\
One judge for all (`assets/judges`). Prompt accuracy: the share of a prompt's exact wishes (colour, size, position,
second object, style) that the attribute classifier finds; CLIP-T: cosine of picture and prompt; identity: cosine of
the image-text judge's features with those of the references, cut out by their masks and put on the prompt's
background; by traits: the same by the attribute classifier's features, which see pose and place too; class drift: 1 -
cosine with the base model's picture for the same prompt and seed, without the trigger. In brackets 95 % intervals:
the wider of two cluster bootstraps, over runs (subject x seed) and over prompts. Differences are paired by subject,
run seed, prompt and picture seed. An ordering **holds** where the interval of its difference lies above the bound (0
unless another is given), **does not hold** where it lies below, and is undecided otherwise, or of fewer than 5 runs;
with several differences the worst one decides. "4/5 subjects" counts those whose own mean is above the bound.
"""


def write(study: Study, tables: dict[str, Table], file: Path, config: str, plot: str) -> None:
    """The page; what stands below `NOTES` in the old one is kept. plot: its file's name, "" for none."""
    old = file.read_text("utf-8") if file.is_file() else ""
    kept = old[old.index(NOTES) :] if NOTES in old else f"{NOTES}\n"
    lines = "\n".join(page(study, tables, config, plot))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{lines}\n{kept}", "utf-8")


def page(study: Study, tables: dict[str, Table], config: str, plot: str) -> Iterator[str]:
    """All lines."""
    done = sum(cell.run.state(cell.steps) == "done" and cell.name not in study.refused for cell in study.cells)
    comparison = study.comparison
    part = "" if done == len(study.cells) else " **This page is of an unfinished comparison.**"
    yield from (
        f"# Four methods against their papers{'' if comparison.name == 'methods' else f': {comparison.name}'}", "",
        f"Written by `python -m studio.bench methods --config {config}` from `studio compare {config}`: {done} of "
        f"{len(study.cells)} runs are done, {comparison.budget.amount:g} steps each unless said otherwise, seeds "
        f"{', '.join(map(str, comparison.seeds))}, subjects {', '.join(comparison.subjects)}, model "
        f"{comparison.model}.{part}", "", HOW,
    )  # fmt: skip
    yield from summary(study, tables)
    yield from ([f"![prompt accuracy and identity of every method]({plot})", ""] if plot else [])
    for experiment in comparison.experiments:
        yield from section(study, experiment, tables[experiment.name])


def summary(study: Study, tables: dict[str, Table]) -> Iterator[str]:
    """How many orderings hold, by experiment."""
    yield from ("| experiment | holds | undecided | does not hold | no data yet |", "|---|--:|--:|--:|--:|")
    for experiment in study.comparison.experiments:
        if rows := orderings(study, experiment):
            verdicts = [row.verdict(tables[experiment.name]) for row in rows]
            counts = [verdicts.count(v) for v in ("holds", "undecided", "does not hold", "no data yet")]
            yield f"| {experiment.name} | {' | '.join(map(str, counts))} |"
    yield ""


def section(study: Study, experiment: Experiment, table: Table) -> Iterator[str]:
    """One experiment."""
    labels = compare_union.labels(study.comparison, experiment.name)
    yield from (f"## {experiment.name}", "", *([experiment.about, ""] if experiment.about else []))
    columns = [number for number in COLUMNS if any(number in row for row in table.values())]
    if BOTH in columns and experiment.name != "sparse":
        columns.remove(BOTH)
    if columns:
        yield f"| method | runs | {' | '.join(COLUMNS[number] for number in columns)} |"
        yield f"|---|--:|{'--:|' * len(columns)}"
    for label in labels if columns else ():
        numbers = table.get(label, {})
        yield f"| {label} | {runs(numbers)} | {' | '.join(cell(numbers, number) for number in columns)} |"
    yield from ("", *by_set(labels, table))
    yield from (line for row in orderings(study, experiment) for line in said(row, table))
    yield ""


def by_set(labels: Sequence[str], table: Table) -> Iterator[str]:
    """Prompt accuracy by set of prompts."""
    sets = [name for name in SETS if any(called(row.get(TEXT, {}), [name]) for row in table.values())]
    if not sets:
        return
    yield from (f"| prompt accuracy | {' | '.join(sets)} |", f"|---|{'--:|' * len(sets)}")
    for label in labels:
        yield f"| {label} | {' | '.join(cell(table.get(label, {}), TEXT, [name]) for name in sets)} |"
    yield ""


def orderings(study: Study, experiment: Experiment) -> list[Ordering]:
    """The papers' for one experiment."""
    return methods_orderings.of(experiment.name, compare_union.labels(study.comparison, experiment.name))


def runs(numbers: Numbers) -> int:
    """How many runs a row is of."""
    return len({place[:2] for values in numbers.values() for place in values})


def cell(numbers: Numbers, number: str, sets: Sequence[str] = ()) -> str:
    """A mean with its interval; '' for none."""
    seen = interval(called(numbers.get(number, {}), sets or ([SILENT] if number == DRIFT else [])))
    if not seen.n:
        return ""
    return f"{seen.value:.3f} {between(seen.low, seen.high)}".strip()


def between(low: float, high: float, sign: str = "") -> str:
    """An interval in brackets; '' where it has no ends."""
    return "" if low != low or high != high else f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def said(row: Ordering, table: Table) -> Iterator[str]:
    """An ordering with its verdict, and its differences below it."""
    yield f"- **{row.verdict(table)}**: {row.sentence}."
    for claim in row.claims:
        yield f"    - {difference(found(claim, table))}{' (shown beside)' if claim in row.beside else ''}"


def difference(finding: Finding) -> str:
    """`LoRA, rank 4 - LoRA, rank 64, prompt-accuracy: +0.061 [+0.020, +0.102], 5/5 subjects`."""
    claim, seen = finding.claim, finding.seen
    if not seen.n:
        return f"{claim.words}: no data yet"
    bound = f" (bound {claim.above:+g})" if claim.above else ""
    sets = f" on {', '.join(claim.sets)}" if claim.sets else ""
    one, all_of = finding.subjects
    ends = between(seen.low, seen.high, "+")
    return f"{claim.words}{sets}: {seen.value:+.3f} {ends}{bound}, {one}/{all_of} subjects, {seen.n} pairs"
