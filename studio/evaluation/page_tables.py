"""Tables of scores: one per score, so that a column never holds two kinds of number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from studio.evaluation import plots
from studio.evaluation.page_kinds import by_kind, kind, twins
from studio.evaluation.page_private import clean
from studio.evaluation.page_roles import ROLES, Cast, Role, grounded, role, sets_of, tone
from studio.evaluation.page_run import last
from studio.evaluation.page_words import ARROWS, TONES, between, number, places
from studio.evaluation.records import Evaluation, Score, Source

PIECES = 6  # of a list of pictures
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Row:
    """A score of one source on one set, as texts. first: whether a new set starts here."""

    set: str
    source: str
    value: str
    interval: str
    base: str
    base_interval: str
    change: str
    change_interval: str
    tone: str
    words: str
    drawing: Markup
    n: int


@dataclass(frozen=True)
class Metric:
    """One score with all its rows. whole: over all prompts (or the only set); parts: per set."""

    key: str
    name: str
    arrow: str
    better: str
    about: str
    whole: list[Row]
    parts: list[Row]
    trace: str
    several: bool
    compared: bool


def metrics(evaluation: Evaluation, cast: Cast) -> list[tuple[Role, list[Metric]]]:
    """All scores, by the question they answer, in the order they were taken; one that is another's twin is named."""
    same = twins(evaluation.scores)
    groups = {key: rows for key, rows in by_kind(grounded(s) for s in evaluation.scores).items() if key not in same}
    also = {key: [clean(name) for (name, _), first in same.items() if first == key] for key in groups}
    built = [(role(key[0]), metric(evaluation, cast, rows, also[key])) for key, rows in groups.items()]
    ordered = [(one, [metric for kind, metric in built if kind is one]) for one in ROLES]
    return [(one, rows) for one, rows in ordered if rows]


def metric(evaluation: Evaluation, cast: Cast, scores: Sequence[Score], also: Sequence[str] = ()) -> Metric:
    """One score's table. also: names under which the same numbers were taken again."""
    about, digits = scores[0].about, places(*scores)
    axis = plots.scale(
        (v for s in scores for v in (s.value, s.low, s.high, *([s.base] if s.base is not None else []))), 4, 92
    )
    mine = list(rows(scores, cast, digits, axis))
    only = len(sets_of(scores)) == 1
    whole = [row for score, row in mine if not score.set or only]
    said = [
        "" if about.encoder in about.group else clean(about.encoder),
        about.unit and f"in {about.unit}",
        clean(about.group),
    ]
    said += [f"{name} gives the same numbers" for name in also]
    shown = [score for score, _ in mine if not score.set or only] or [score for score, _ in mine]
    return Metric(
        key=f"{about.name} {about.group}",
        name=clean(about.name),
        arrow=ARROWS[about.better],
        better=f"{about.better} is better",
        about="; ".join(dict.fromkeys(part for part in said if part)),
        whole=whole or [row for _, row in mine],
        parts=[row for score, row in mine if score.set] if whole and not only else [],
        trace=trace(evaluation, shown),
        several=len({row.source for _, row in mine}) > 1,
        compared=any(row.base or row.change for _, row in mine),
    )


def rows(scores: Sequence[Score], cast: Cast, digits: int, axis: plots.Scale) -> Iterator[tuple[Score, Row]]:
    """A row per score of an adapter, the base model's beside it; the base's own rows where no adapter has one."""
    base = {s.set: s for s in scores if cast.base and s.source == cast.base.label}
    theirs = [s for s in scores if not any(s is one for one in base.values())]
    alone = [s for name, s in base.items() if name not in {t.set for t in theirs}]
    order = {name: number for number, name in enumerate(sets_of(scores))}
    main = cast.main.label if cast.main else ""
    for score in sorted([*theirs, *alone], key=lambda s: (order[s.set], s.source != main)):
        beside = base.get(score.set)
        yield score, row(score, None if beside is score else beside, digits, axis)


def row(score: Score, beside: Score | None, digits: int, axis: plots.Scale) -> Row:
    """One row; beside: the base model's own score on the same set, for its interval."""
    level = score.base if score.base is not None else beside.value if beside else None
    theirs: Triple | None = (beside.value, beside.low, beside.high) if beside else None
    if theirs is None and level is not None:
        theirs = (level, float("nan"), float("nan"))
    kind = tone(score)
    return Row(
        set=clean(score.set) or "all prompts",
        source=clean(score.source),
        value=number(score.value, digits),
        interval=between(score.low, score.high, digits),
        base="" if level is None else number(level, digits),
        base_interval=between(beside.low, beside.high, digits) if beside else "",
        change="" if score.change is None else number(score.change, digits, sign=True),
        change_interval=between(score.change_low, score.change_high, digits, sign=True),
        tone=kind,
        words=TONES[kind],
        drawing=plots.whisker((score.value, score.low, score.high), theirs, axis),
        n=score.n,
    )


def trace(evaluation: Evaluation, shown: Sequence[Score]) -> str:
    """Which pictures made the numbers of the rows that are shown first: their numbers on the page, by source."""
    kinds, labels = {kind(score) for score in shown}, [source.label for source in evaluation.sources]
    sets = {score.set for score in shown}
    behind = [s for s in evaluation.scores if kind(s) in kinds and s.set in sets]
    used: dict[str, set[int]] = {}
    for score in sorted(behind, key=lambda s: labels.index(s.source) if s.source in labels else len(labels)):
        known = {index + 1 for index in score.pictures if index < len(evaluation.pictures)}
        used.setdefault(score.source, set()).update(known)
    parts = [f"{clean(label)} from pictures {ranges(sorted(rows))}" for label, rows in used.items() if rows]
    return "; ".join(parts)


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers as `1-4, 7`; of many pieces how many there are, the first and the last."""
    found: list[list[int]] = []
    for value in numbers:
        if found and value == found[-1][1] + 1:
            found[-1][1] = value
        else:
            found.append([value, value])
    if len(found) > PIECES:
        return f"{numbers[0]}\N{EN DASH}{numbers[-1]} ({len(numbers)} of them)"
    return ", ".join(f"{a}\N{EN DASH}{b}" if a != b else str(a) for a, b in found)


@dataclass(frozen=True)
class Chart:
    """A curve over steps."""

    name: str
    arrow: str
    better: str
    drawing: Markup


def curves(evaluation: Evaluation, cast: Cast) -> list[Chart]:
    """A curve per score over the checkpoints' steps, a line per strength; none with fewer than two steps."""
    end = last(evaluation)
    sources = {source.label: (cast.origin.of(source).step or end, source) for source in cast.others}
    steps = {step for step, _ in sources.values() if step}
    strengths = sorted({source.strength for source in cast.others})
    charts = []
    same = twins(evaluation.scores)
    for key in dict.fromkeys(kind(s) for s in evaluation.scores if len(steps) > 1 and kind(s) not in same):
        mine = [s for s in evaluation.scores if kind(s) == key]
        first = sets_of(mine)[0]
        points = [(sources[s.source], s) for s in mine if s.set == first and s.source in sources]
        lines = [line(points, strength, number % 6) for number, strength in enumerate(strengths)]
        if max((len(plots.finite(row[1] for row in one.points)) for one in lines), default=0) < 2:
            continue
        about = mine[0].about
        level = next((s.base for _, s in points if s.base is not None), None)
        words = f"{about.name} over steps, {about.better} is better"
        charts.append(Chart(clean(about.name), ARROWS[about.better], words, plots.curve(lines, level, clean(words))))
    return charts


def line(points: Sequence[tuple[tuple[int, Source], Score]], strength: float, series: int) -> plots.Line:
    """One strength's values over steps."""
    found = sorted(
        (step, s.value, s.low, s.high) for (step, source), s in points if step and source.strength == strength
    )
    return plots.Line(f"strength {strength:g}", found, series)
