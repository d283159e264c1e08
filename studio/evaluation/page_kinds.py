"""Kinds of numbers: what stands in one table, and which kinds are one and the same number."""

from __future__ import annotations

from collections.abc import Iterable

from studio.evaluation.records import Score

SAME = 1e-5  # values no further apart are one number, rounded
Kind = tuple[str, str]  # name, group


def kind(score: Score) -> Kind:
    """Scores of one kind stand in one table."""
    return score.about.name, score.about.group


def twins(scores: Iterable[Score]) -> dict[Kind, Kind]:
    """Kinds that are an earlier kind over again, picture by picture, each with that kind."""
    kinds, found = by_kind(scores), dict[Kind, Kind]()
    for place, (key, rows) in enumerate(kinds.items()):
        before = (one for one in list(kinds)[:place] if one not in found and alike(kinds[one], rows))
        if (first := next(before, None)) is not None:
            found[key] = first
    return found


def alike(some: list[Score], others: list[Score]) -> bool:
    """Whether two kinds hold the same numbers of the same pictures, which are not one number all over."""
    about, other = some[0].about, others[0].about
    told = [[(row.source, row.set, row.pictures) for row in rows] for rows in (some, others)]
    if (about.encoder, about.better, about.unit) != (other.encoder, other.better, other.unit) or told[0] != told[1]:
        return False
    pairs = [pair for one, two in zip(some, others, strict=True) for pair in zip(one.values, two.values, strict=False)]
    close = all(abs(one - two) < SAME or one != one and two != two for one, two in pairs)
    return close and len({one for one, _ in pairs if one == one}) > 1


def by_kind(scores: Iterable[Score]) -> dict[Kind, list[Score]]:
    """Scores that stand in one table, in the order they were taken."""
    found: dict[Kind, list[Score]] = {}
    for score in scores:
        found.setdefault(kind(score), []).append(score)
    return found
