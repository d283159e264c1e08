"""Inline SVG: a Pareto plot, curves over steps, intervals. Colours and sizes of letters come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

MANY = 4  # points of a plane with error bars
LETTER = 6.6  # about the width of a letter of a label, in user units
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scale:
    """Values to places on an axis, straight."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value, rounded to a tenth."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


@dataclass(frozen=True)
class Point:
    """A source in a plane. kind: base, chosen or other; series: which strength or adapter, for its colour."""

    label: str
    x: tuple[float, float, float]  # value, low, high
    y: tuple[float, float, float]
    kind: str = "other"
    series: int = 0

    @property
    def at(self) -> tuple[float, float]:
        """Its values."""
        return self.x[0], self.y[0]


@dataclass(frozen=True)
class Line:
    """A value over steps. points: (step, value, low, high), steps rising."""

    label: str
    points: Sequence[tuple[float, float, float, float]]
    series: int = 0


def finite(values: Iterable[float]) -> list[float]:
    """Those that can be drawn."""
    return [value for value in values if math.isfinite(value)]


def scale(values: Iterable[float], start: float, end: float, room: float = 0.08) -> Scale:
    """A scale over finite values with some room on both sides."""
    known = finite(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    margin = (high - low) * room or abs(high) * 0.05 or 0.5
    return Scale(low - margin, high + margin, start, end)


def ticks(axis: Scale, most: int = 5) -> list[float]:
    """Round values inside a scale, at most so many."""
    rough = (axis.high - axis.low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(axis.low / step)
    return [float(f"{number * step:.12g}") + 0.0 for number in range(first, math.floor(axis.high / step) + 1)]


def short(value: float) -> str:
    """A tick's number."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def front(points: Sequence[Point], x_better: int = 1, y_better: int = 1) -> list[Point]:
    """The points that no other beats in both; by x. x_better, y_better: 1 where more is better, -1 where less is."""
    known = [point for point in points if all(map(math.isfinite, point.at))]

    def beaten(one: Point) -> bool:
        mine = (one.at[0] * x_better, one.at[1] * y_better)
        theirs = [(other.at[0] * x_better, other.at[1] * y_better) for other in known]
        return any(x >= mine[0] and y >= mine[1] and (x, y) != mine for x, y in theirs)

    return sorted((point for point in known if not beaten(point)), key=lambda point: point.at)


def tag(name: str, content: object = "", **attributes: object) -> Markup:
    """An element; names of attributes lose a closing underscore, other underscores become dashes."""
    row = "".join(f' {key.strip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{row}>{escape(content)}</{name}>")


def figure(wide: float, high: float, words: str, parts: Iterable[Markup], kind: str) -> Markup:
    """The whole drawing, with what it shows in words."""
    attributes = {"viewBox": f"0 0 {wide:g} {high:g}", "role": "img", "aria_label": words, "class_": f"plot {kind}"}
    return tag("svg", Markup("").join(parts), **attributes)


def path(places: Sequence[tuple[float, float]], **attributes: object) -> Markup:
    """A line through places."""
    return tag("path", d="M" + "L".join(f"{x:g} {y:g}" for x, y in places), **attributes)


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> Markup:
    """A label."""
    return tag("text", words, x=f"{x:g}", y=f"{y:g}", class_=kind, text_anchor=anchor)


def axes(x: Scale, y: Scale, names: tuple[str, str], most: int = 5) -> list[Markup]:
    """Grid lines with their numbers, and the names of both axes."""
    rows = [path([(x.start, y(v)), (x.end, y(v))], class_="grid") for v in ticks(y, most)]
    rows += [text(x.start - 5, y(v) + 3.5, short(v), "tick", "end") for v in ticks(y, most)]
    rows += [text(x(v), y.start + 14, short(v), "tick", "middle") for v in ticks(x, most)]
    rows.append(path([(x.start, y.start), (x.end, y.start)], class_="axis"))
    rows.append(text(x.end, y.start + 28, names[0], "name", "end"))
    rows.append(text(x.start - 34, y.end - 8, names[1], "name"))
    return rows


def pareto(points: Sequence[Point], names: tuple[str, str], better: tuple[int, int] = (1, 1)) -> Markup:
    """Identity (y) against prompt accuracy (x); the front is drawn, and the error bars of few. names: of the axes."""
    wide, high = 420.0, 230.0 if len(points) < 4 else 320.0
    known = [point for point in points if all(map(math.isfinite, point.at))]
    known = [replace(point, x=point.x[:1] * 3, y=point.y[:1] * 3) for point in known] if crowded(points) else known
    x = scale((value for point in known for value in point.x), 42, wide - 12)
    y = scale((value for point in known for value in point.y), high - 40, 26)
    best = front(known, *better)
    parts = axes(x, y, names)
    if len(best) > 1:
        parts.append(path([(x(p.at[0]), y(p.at[1])) for p in best], class_="front"))
    parts += [bar for point in known for bar in bars(point, x, y) if not crowded(points)]
    parts += [dot(point, x, y) for point in known]
    parts += labels(known, x, y, (x.start, y.end - 4, x.end, y.start))
    said = "; ".join(f"{p.label}: {short(p.at[0])}, {short(p.at[1])}" for p in known)
    return figure(wide, high, f"{names[1]} against {names[0]}. {said}", parts, "pareto")


def crowded(points: Sequence[Point]) -> bool:
    """Whether error bars would hide the points: what candidates of a run differ in is small beside their intervals."""
    return len(points) > MANY


def bars(point: Point, x: Scale, y: Scale) -> list[Markup]:
    """The two error bars of a point, where they are known."""
    kind = f"bar {point.kind} s{point.series}"
    flat = [(x(end), y(point.at[1])) for end in finite(point.x[1:])]
    steep = [(x(point.at[0]), y(end)) for end in finite(point.y[1:])]
    return [path(row, class_=kind) for row in (flat, steep) if len(row) == 2]


def dot(point: Point, x: Scale, y: Scale) -> Markup:
    """A point: a square for the base model, a ring around the recommended one."""
    at, kind = (x(point.at[0]), y(point.at[1])), f"dot {point.kind} s{point.series}"
    said = tag("title", f"{point.label}: {short(point.at[0])}, {short(point.at[1])}")
    if point.kind == "base":
        return tag("rect", said, x=at[0] - 4.5, y=at[1] - 4.5, width=9, height=9, class_=kind)
    ring = tag("circle", cx=at[0], cy=at[1], r=9, class_="ring") if point.kind == "chosen" else Markup("")
    return ring + tag("circle", said, cx=at[0], cy=at[1], r=4.5, class_=kind)


def labels(points: Sequence[Point], x: Scale, y: Scale, inside: Box) -> list[Markup]:
    """Names beside points where they cover nothing; the base model and the recommended one come first."""
    taken: list[Box] = [box for point in points for box in covered(point, x, y)]
    rows = []
    for point in sorted(points, key=lambda p: ("chosen", "base", "other").index(p.kind)):
        words = point.label if len(point.label) <= 24 else f"{point.label[:22]}\N{HORIZONTAL ELLIPSIS}"
        wide, left, top = len(words) * LETTER, x(point.at[0]), y(point.at[1])
        across = (left + 9, left - 9 - wide, left - wide / 2)
        for at, base in ((0, -6.0), (0, 15.0), (1, -6.0), (1, 15.0), (2, -13.0), (2, 21.0), (0, 4.0), (1, 4.0)):
            box = (across[at], top + base - 10, across[at] + wide, top + base + 2)
            if free(box, taken, inside):
                taken.append(box)
                rows.append(text(round(box[0], 1), round(top + base, 1), words, f"label {point.kind}"))
                break
    return rows


def covered(point: Point, x: Scale, y: Scale) -> list[Box]:
    """What a point and its error bars cover."""
    at = x(point.at[0]), y(point.at[1])
    flat, steep = finite(point.x[1:]) or [point.at[0]], finite(point.y[1:]) or [point.at[1]]
    return [
        (at[0] - 5, at[1] - 5, at[0] + 5, at[1] + 5),
        (x(min(flat)), at[1] - 1, x(max(flat)), at[1] + 1),
        (at[0] - 1, y(max(steep)), at[0] + 1, y(min(steep))),
    ]


def free(box: Box, taken: Iterable[Box], inside: Box) -> bool:
    """Whether a box is inside and covers none of the others."""
    if box[0] < inside[0] or box[1] < inside[1] or box[2] > inside[2] or box[3] > inside[3]:
        return False
    return not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)


def curve(lines: Sequence[Line], base: float | None, words: str) -> Markup:
    """One score over steps: a line with its interval per series, the base model dashed."""
    wide, high = 320.0, 190.0
    rows = [row for line in lines for row in line.points]
    level = finite([base] if base is not None else [])
    x = scale((row[0] for row in rows), 42, wide - 10, 0.04)
    y = scale([*(v for row in rows for v in row[1:]), *level], high - 34, 14)
    parts = axes(x, y, ("step", ""), 4)
    parts += [path([(x.start, y(v)), (x.end, y(v))], class_="level") for v in level]
    parts += [text(x.start + 4, y(v) - 4, "base", "label base") for v in level]
    for line in lines:
        known = [row for row in line.points if math.isfinite(row[1])]
        band = [row for row in known if len(finite(row[2:])) == 2]
        if len(band) > 1:
            outline = [(x(row[0]), y(row[3])) for row in band] + [(x(row[0]), y(row[2])) for row in reversed(band)]
            parts.append(path(outline, class_=f"band s{line.series}"))
        if known:
            parts.append(path([(x(row[0]), y(row[1])) for row in known], class_=f"line s{line.series}"))
        said = [tag("title", f"{line.label}, step {short(row[0])}: {short(row[1])}") for row in known]
        places = [(x(row[0]), y(row[1])) for row in known]
        kind = f"dot s{line.series}"
        parts += [tag("circle", t, cx=a, cy=b, r=3, class_=kind) for t, (a, b) in zip(said, places, strict=True)]
    return figure(wide, high, words, parts, "curve")


def whisker(value: tuple[float, float, float], base: tuple[float, float, float] | None, axis: Scale) -> Markup:
    """A small interval with the base model's above it; the numbers stand beside it, so it has no words."""
    rows = [(base, 5.0, "base")] if base else []
    parts = []
    for row, y, kind in [*rows, (value, 13.0 if base else 9.0, "mine")]:
        ends = [(axis(end), y) for end in finite(row[1:])]
        if len(ends) == 2:
            parts.append(path(ends, class_=f"bar {kind}"))
        if math.isfinite(row[0]):
            parts.append(tag("circle", cx=axis(row[0]), cy=y, r=3, class_=f"dot {kind}"))
    drawn = Markup("").join(parts)
    return tag("svg", drawn, viewBox="0 0 96 18", class_="whisker", aria_hidden="true", focusable="false")
