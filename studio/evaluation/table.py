"""The numbers of an evaluation as a table for a terminal, and as `scores.json` of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.evaluation.records import Evaluation, Score, Source, tidy
from studio.pipelines.protocols import About

if TYPE_CHECKING:
    from rich.table import Table

    from studio.evaluation.homes import Home
    from studio.evaluation.targets import Target

ARROWS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}
NONE = "-"
Row = dict[str, Score]  # by source


def rows(found: Evaluation) -> list[tuple[About, str, Row]]:
    """One row per number of one group, over all prompts or else over the sets it has: its score by source."""
    grouped: dict[tuple[str, str], dict[str, Row]] = {}
    about: dict[tuple[str, str], About] = {}
    for score in found.scores:
        key = (score.about.name, score.about.group)
        about[key] = score.about
        grouped.setdefault(key, {}).setdefault(score.set, {})[score.source] = score
    return [
        (about[key], name, row) for key, of in grouped.items() for name, row in of.items() if not name or "" not in of
    ]


def table(found: Evaluation) -> Table:
    """Numbers by source, the base model's first."""
    from rich.table import Table

    shown = Table("number", *(source.label for source in found.sources), "pictures", box=None, pad_edge=False)
    for column in shown.columns[1:]:
        column.justify = "right"
    for about, name, row in rows(found):
        title = f"{about.name} {ARROWS[about.better]}" + (f" ({name})" if name else "")
        cells = [cell(row.get(source.label)) for source in found.sources]
        shown.add_row(title, *cells, str(max((score.n for score in row.values()), default=0)))
    return shown


def cell(score: Score | None) -> str:
    """`0.512 (0.48 to 0.55)`, with a star where it differs from the base model's."""
    if score is None or math.isnan(score.value):
        return NONE
    low, high = (NONE if math.isnan(end) else f"{end:.3f}" for end in (score.low, score.high))
    return f"{score.value:.3f} ({low} to {high}){' *' if differs(score) else ''}"


def differs(score: Score) -> bool:
    """Whether the paired difference to the base model has its whole interval on one side of zero."""
    ends = (score.change_low, score.change_high)
    return all(end is not None and not math.isnan(end) for end in ends) and (ends[0] > 0 or ends[1] < 0)  # type: ignore[operator]


def legend(found: Evaluation) -> str:
    """What stands in the table, in one line."""
    first = next((source for source in found.sources if source.file), None)
    return (
        "95 % intervals over prompts and seeds; arrows: which way is good; *: differs from the base model, prompt by "
        f"prompt and seed by seed{f'; base: asked for {first.class_word}' if first and first.class_word else ''}"
    )


def write(file: Path, text: str) -> Path:
    """A text file, written aside and renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.part")
    try:
        aside.write_text(text, "utf-8")
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    return file


def write_scores(found: Evaluation, targets: Sequence[Target], home: Home) -> list[Path]:
    """`scores.json` of every run whose own it is, at full strength, else of the first source; its paths."""
    places = {
        one.source.label: one.run.folder if one.run is not None and one.run.folder in home.own else home.home
        for one in targets
    }
    chosen: dict[Path, Source] = {}
    for source in sorted((one.source for one in targets), key=lambda source: abs(source.strength - 1)):
        chosen.setdefault(places[source.label], source)
    return [
        write(place / "scores.json", json.dumps(scores(found, source.label, home.folder, place), indent=1) + "\n")
        for place, source in chosen.items()
    ]


def scores(found: Evaluation, label: str, folder: Path, place: Path) -> dict[str, dict[str, Any]]:
    """One source's numbers by name: value, low, high, n, encoder, base, and what made them.

    pictures: relative to `place`. Where two groups have one name, the group is told in it.
    """
    listed = rows(found)
    names = [about.name for about, _, _ in listed]
    result: dict[str, dict[str, Any]] = {}
    for about, name, row in listed:
        if (score := row.get(label)) is None:
            continue
        title = about.name if names.count(about.name) == 1 else f"{about.name} ({name or about.group})"
        per_set = {one.set: one.value for one in found.scores if one.set and one.source == label and one.about == about}
        files = [os.path.relpath(folder / found.pictures[index].file, place) for index in score.pictures]
        said = {key: getattr(score, key) for key in ("value", "low", "high", "n")}
        said |= {"encoder": about.encoder, "base": score.base, "change": score.change}
        said |= {"change_low": score.change_low, "change_high": score.change_high, "better": about.better}
        said |= {"group": about.group, "strength": strength(found, label), "set": name, "sets": per_set}
        result[title] = rounded({**said, "pictures": [Path(file).as_posix() for file in files]})
    return tidy(result)


def short(found: Evaluation, label: str) -> str:
    """One source's numbers beside the base model's, as JSON for an adapter's header."""
    rows = scores(found, label, Path(), Path())
    return json.dumps(
        {name: {key: row.get(key) for key in ("value", "base")} for name, row in rows.items()}, sort_keys=True
    )


def strength(found: Evaluation, label: str) -> float:
    """At which strength a source was drawn."""
    return next(source.strength for source in found.sources if source.label == label)


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers to five places."""
    return {
        key: round(value, 5) if isinstance(value, float) else rounded(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }
