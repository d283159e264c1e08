"""Scorers over drawn pictures: each value of each picture, in columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.evaluation.gallery import Drawn
from studio.evaluation.panel import Panel
from studio.evaluation.references import Material
from studio.pipelines.protocols import About, Scorer

BATCH = 32


@dataclass(frozen=True)
class Column:
    """One scorer's values over the pictures of a set ("" for all that call the subject). rows: into `Drawn`.

    ends: its own interval, of a number that belongs to the whole set or is no plain mean.
    """

    about: About
    set: str
    rows: tuple[int, ...]
    values: tuple[float, ...]
    ends: tuple[float, float] | None = None


def columns(scorer: Scorer, drawn: Drawn, material: Material, base: Drawn | None) -> Iterator[Column]:
    """A scorer's values per set and over all sets that call the subject. base: what a whole set is held against."""
    sets = list(dict.fromkeys(one.set for one in drawn.wanted))
    if scorer.about.per == "set":
        for name in ("", *sets):
            yield from whole(scorer, drawn, name, base)
        return
    if "references" in scorer.about.needs and not material.references:
        return  # of this subject there are none: the other columns, and other subjects, are scored all the same
    values: dict[int, float] = {}
    near = material if "references" in scorer.about.needs else None
    for name in sets:
        for ground, rows in chunks(drawn, drawn.rows(name), near):
            values |= dict(zip(rows, call(scorer, drawn, rows, material.near(ground)), strict=True))
    for name in ("", *sets):
        if rows := drawn.rows(name or None):
            yield Column(scorer.about, name, tuple(rows), tuple(values[row] for row in rows))


def whole(scorer: Scorer, drawn: Drawn, name: str, base: Drawn | None) -> Iterator[Column]:
    """One number for all pictures of a set; where it is a distance, to the base model's pictures of that set."""
    rows = drawn.rows(name or None)
    against: list[Tensor] = []
    if "references" in scorer.about.needs:
        if base is None:
            return
        batch = base.batch(base.rows(name or None))
        against = [picture for picture in batch if picture.isfinite().all()]
    if not rows:
        return
    values = call(scorer, drawn, rows, against)
    ends = scorer.interval(drawn.batch(rows), against) if hasattr(scorer, "interval") else None
    yield Column(scorer.about, name, tuple(rows), tuple(values), ends)


def chunks(drawn: Drawn, rows: Sequence[int], material: Material | None) -> Iterator[tuple[str, list[int]]]:
    """Rows in batches that keep the pictures of one prompt together.

    material: batches also have one background, that of the references they are held against; '' without it.
    """
    grounds: dict[str, list[int]] = {}
    for row in rows:
        ground = material.ground(drawn.wanted[row].plain) if material is not None else ""
        grounds.setdefault(ground, []).append(row)
    for ground, mine in grounds.items():
        batch: list[int] = []
        for row in mine:
            if len(batch) >= BATCH and drawn.wanted[row].plain != drawn.wanted[batch[-1]].plain:
                yield ground, batch
                batch = []
            batch.append(row)
        yield ground, batch


def call(scorer: Scorer, drawn: Drawn, rows: Sequence[int], references: Sequence[Tensor]) -> list[float]:
    """One value per row."""
    prompts = [drawn.wanted[row].plain for row in rows]
    with torch.no_grad():
        values = scorer(drawn.batch(rows), prompts, references or None)
    return [float(value) for value in values.float().cpu()]


def over(
    panel: Panel, gallery: Sequence[Drawn], material: Material, bases: Sequence[Drawn | None]
) -> Iterator[dict[int, list[Column]]]:
    """Every scorer over every source's pictures, columns by the source's number; one that fails leaves the panel."""
    prompts = list(dict.fromkeys(one.plain for drawn in gallery for one in drawn.wanted))
    for scorer in list(panel.scorers):

        def every(scorer: Scorer = scorer) -> dict[int, list[Column]]:
            pairs = enumerate(zip(gallery, bases, strict=True))
            found = {number: list(columns(scorer, drawn, material, base)) for number, (drawn, base) in pairs}
            for note in getattr(scorer, "cut", lambda prompts: [])(prompts):
                panel.note(note)
            return found

        found = panel.attempt(scorer.about.name, every)
        if found is None:
            panel.scorers.remove(scorer)
        yield found or {}
