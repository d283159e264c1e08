"""Pictures of one source drawn and scored, and several of them put side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.evaluation import bootstrap, scoring
from studio.evaluation.bootstrap import Interval
from studio.evaluation.gallery import Drawn, Gallery, How, is_base
from studio.evaluation.panel import Panel, panel
from studio.evaluation.records import Evaluation, Pair, Score, Source
from studio.evaluation.references import Material
from studio.evaluation.scoring import Column
from studio.evaluation.sets import PromptSet, Wanted, wanted
from studio.evaluation.traits import Traits, place
from studio.pipelines.protocols import About, Backbone

__all__ = ["Drawn", "How", "Material", "Measured", "Panel", "Wanted", "assemble", "measure", "panel"]

USUAL = How()
SHARE = (0.0, 1.0)  # bounds
Count = Callable[[str, Iterator[tuple[int, int]]], None]


@dataclass
class Measured:
    """One source's pictures with their columns of scores.

    pairs: picture (a row of `drawn`) and nearest training picture; base: what the numbers are held against.
    """

    drawn: Drawn
    columns: list[Column] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    base: Measured | None = None

    @property
    def source(self) -> Source:
        """Whose."""
        return self.drawn.source


def run_through(phase: str, steps: Iterator[tuple[int, int]]) -> None:
    """Progress that nobody looks at."""
    for _ in steps:
        pass


def draw(
    model: Backbone,
    source: Source,
    sets: Sequence[PromptSet],
    seeds: Sequence[int],
    how: How = USUAL,
    folder: Path | None = None,
    count: Count = run_through,
    kept: dict[str, Tensor | None] | None = None,
) -> Drawn:
    """A source's pictures of the sets. The model's adapter, where it has one, is the source's.

    folder: pictures are kept there and not drawn twice; None: nothing is written. count: shows the progress; kept:
    pictures by key, filled, and not drawn twice either.
    """
    trigger = "" if is_base(source) else source.trigger
    rows = wanted(sets, seeds, trigger, source.class_word)
    uncalled = frozenset(group.name for group in sets if not group.trigger)
    gallery = Gallery(model, source, rows, how, folder, uncalled, {} if kept is None else kept)
    count("draw", gallery.run())
    return gallery.result()


def measure(
    model: Backbone,
    source: Source,
    sets: Sequence[PromptSet],
    seeds: Sequence[int],
    panel: Panel,
    material: Material,
    how: How = USUAL,
    folder: Path | None = None,
    base: Measured | None = None,
    count: Count = run_through,
) -> Measured:
    """Draw and score one source on a live model, for checkpoints, strengths and methods.

    A source with neither `file` nor `step` is the base model, drawn inside `adapter.off()`. base: its own measure,
    which drift and leak are read off. A scorer that fails leaves `panel`, with a note there.
    """
    drawn = draw(model, source, sets, seeds, how, folder, count)
    return judge([drawn], panel, material, count, [base] if base is not None else [])[0]


def judge(
    gallery: Sequence[Drawn],
    panel: Panel,
    material: Material,
    count: Count = run_through,
    known: Sequence[Measured] = (),
) -> list[Measured]:
    """Score drawn pictures; the base models among them, and those measured before, are the others' baseline."""
    measured = [Measured(drawn) for drawn in gallery]
    for one in measured:
        one.base = baseline([*known, *measured], one)
    against = [one.base.drawn if one.base is not None else None for one in measured]
    traits = Traits(panel, material)

    def steps() -> Iterator[tuple[int, int]]:
        total = len(panel.scorers) + panel.personal * len(measured)
        done = 0
        yield done, total
        for found in scoring.over(panel, gallery, material, against):
            for number, columns in found.items():
                measured[number].columns += columns
            yield (done := done + 1), total
        for one, base in zip(measured, against, strict=True) if panel.personal else ():
            columns, one.pairs = traits.columns(one.drawn, base)
            one.columns = columns + one.columns
            yield (done := done + 1), total

    count("score", steps())
    return measured


def baseline(measured: Sequence[Measured], one: Measured) -> Measured | None:
    """The base model's measure that a source is held against."""
    same = (other for other in measured if is_base(other.source) and other is not one)
    key = (one.source.model, one.source.class_word)
    return (
        None if is_base(one.source) else next((b for b in same if (b.source.model, b.source.class_word) == key), None)
    )


def assemble(
    measured: Sequence[Measured], notes: Sequence[str] = (), settings: dict[str, Any] | None = None
) -> Evaluation:
    """Everything side by side, each number with its interval and its paired difference to the base model."""
    found = Evaluation(notes=list(notes), settings=dict(settings or {}))
    offsets = {}
    for one in measured:
        offsets[id(one)] = len(found.pictures)
        found.sources.append(one.source)
        found.pictures += one.drawn.made
        found.pairs += [replace(pair, picture=pair.picture + offsets[id(one)]) for pair in one.pairs]
    for one in measured:
        base = one.base or baseline(measured, one)
        found.scores += [score(one, column, base, offsets[id(one)]) for column in one.columns]
    return found


def score(one: Measured, column: Column, base: Measured | None, offset: int) -> Score:
    """One column as a number."""
    wanted, about = one.drawn.wanted, column.about
    prompts = [(wanted[row].set, wanted[row].number) for row in column.rows]
    seen = interval(about, column.values, prompts, about.bounds)
    low, high = column.ends or (seen.low, seen.high)
    rows = tuple(offset + row for row in column.rows)
    result = Score(about, one.source.label, column.set, seen.value, low, high, seen.n, rows, column.values)
    other = match(base, column)
    level = bootstrap.mean(other.values) if other is not None else bootstrap.NAN
    if base is None or other is None or math.isnan(level):
        return result
    theirs = {place(base.drawn.wanted[row]): (row, value) for row, value in zip(other.rows, other.values, strict=True)}
    pairs = [theirs.get(place(wanted[row]), (None, bootstrap.NAN)) for row in column.rows]
    gaps = [mine - value for mine, (_, value) in zip(column.values, pairs, strict=True)]
    twins = ((one.drawn.pictures[row], at) for row, (at, _) in zip(column.rows, pairs, strict=True))
    same = all(at is not None and equal(picture, base.drawn.pictures[at]) for picture, at in twins)
    least, most = about.bounds or (-math.inf, math.inf)
    change = interval(about, gaps, prompts, None if same else (least - most, most - least))
    return replace(result, base=level, change=change.value, change_low=change.low, change_high=change.high)


def interval(
    about: About, values: Sequence[float], prompts: Sequence[Hashable], bounds: tuple[float, float] | None
) -> Interval:
    """The mean and its interval, within the bounds.

    None of a number of the whole set, nor of one prompt where the number is made of all its pictures together.
    """
    seen = bootstrap.interval(values, prompts, seeds=about.per == "picture")
    if about.per == "set" or not math.isfinite(seen.low):
        return seen._replace(low=bootstrap.NAN, high=bootstrap.NAN)
    if bounds is None:
        return seen
    if about.bounds == SHARE and len({value for value in values if math.isfinite(value)}) == 1:
        good = [prompt for value, prompt in zip(values, prompts, strict=True) if math.isfinite(value)]
        seen = bootstrap.constant(seen, good, bounds)
    least, most = bounds
    return seen._replace(low=min(seen.value, max(seen.low, least)), high=max(seen.value, min(seen.high, most)))


def equal(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two pictures are the same to the last value."""
    return one is not None and other is not None and torch.equal(one, other)


def repeated(measured: Sequence[Measured], base: Measured) -> bool:
    """Whether all that a base model was measured by stands in another's columns, which need not be shown twice."""
    key, mine = (base.source.model, base.source.class_word), known(base)
    same = [one for one in measured if is_base(one.source) and (one.source.model, one.source.class_word) == key]
    return any(mine <= known(one) for one in same)


def known(one: Measured) -> set[str]:
    """Its columns as texts: NaN is equal to NaN there."""
    return {f"{column.about.group} {column.set} {column.rows} {column.values}" for column in one.columns}


def match(base: Measured | None, column: Column) -> Column | None:
    """The base model's column of the same number."""
    key = (column.about.name, column.about.group, column.set)
    rows = base.columns if base is not None else ()
    return next((one for one in rows if (one.about.name, one.about.group, one.set) == key), None)
