"""report.html: everything an evaluation found on one page that needs nothing beside itself."""

from __future__ import annotations

import json
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from studio import reward_section
from studio.evaluation import (
    page_advice,
    page_checkpoints,
    page_gallery,
    page_run,
    page_tables,
    page_verdict,
    page_words,
    plots,
)
from studio.evaluation.page_pictures import Album
from studio.evaluation.page_private import clean, leaves, said
from studio.evaluation.page_roles import Cast, cast, headline, is_base, varied
from studio.evaluation.records import Evaluation, Score, Source

NAME = "report.html"
MOST = 8 * 2**20  # bytes of the page
TEXT = 2**20  # of them kept for words and numbers
SHOWN = ("choice", "missing", "adapters", "of")  # settings that have a place of their own
ENVIRONMENT = ("python", "platform", "versions", "device", "git")  # of env.json


def write(evaluation: Evaluation, folder: Path, out: Path, most: int = MOST) -> Path:
    """Write the page of an evaluation. folder: its folder, with the pictures; most: bytes. Returns `out`."""
    text = render(evaluation, folder, out.parent, max(0, most - TEXT))
    aside = out.with_name(f".{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        aside.write_text(text, "utf-8")
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return out


def render(evaluation: Evaluation, folder: Path, home: Path, room: int) -> str:
    """The page's text. home: where it lies, the run's folder if it is of one; room: characters for pictures."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    words = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    words.filters |= {"clean": clean, "said": said, "whole": whole}
    style = (here / "report.css").read_text("utf-8")
    return words.get_template("report.html.j2").render(style=style, **view(evaluation, folder, home, room))


def whole(text: str) -> Markup:
    """A text in which no line ends inside a flag."""
    parts = re.split(r"(--[a-z][a-z-]*)", text)
    marked = (Markup('<span class="flag">{}</span>').format(part) for part in parts[1::2])
    return Markup("").join(part for pair in zip_longest(map(escape, parts[::2]), marked, fillvalue="") for part in pair)


def view(evaluation: Evaluation, folder: Path, home: Path, room: int) -> dict[str, Any]:
    """What the template shows."""
    origin = page_run.origin(evaluation, home)
    parts = cast(evaluation, origin=origin)
    home = origin.folder or home
    facts = page_words.facts(evaluation, parts)
    tone, verdict = page_verdict.verdict(facts)
    album = Album(room)
    training = trained(evaluation, parts, folder, home, album)
    settings = {key: value for key, value in evaluation.settings.items() if key not in SHOWN}
    return {
        "title": title(evaluation, parts),
        "tone": tone,
        "verdict": verdict,
        "warning": page_verdict.warning(facts),
        "facts": facts,
        "advice": page_advice.advice(parts),
        "limits": page_words.limits(evaluation, parts),
        "balance": None if training and training["own"] else pareto(evaluation, parts),
        "training": training,
        "reward": reward_section.section(home),
        "metrics": page_tables.metrics(evaluation, parts),
        "gallery": page_gallery.build(evaluation, parts, folder, album),
        "notes": evaluation.notes,
        "settings": leaves(settings),
        "config": leaves(evaluation.config),
        "environment": leaves(environment(home)),
    }


def trained(evaluation: Evaluation, parts: Cast, folder: Path, home: Path, album: Album) -> dict[str, Any] | None:
    """Checkpoints and strengths side by side: the evaluation's own, or those that the run scored while it trained."""
    own = varied(parts.others)
    seen = evaluation if own else page_checkpoints.read(home, parts.main)
    if seen is None:
        return None
    cast_there = parts if own else cast(seen)
    heads, rows = page_checkpoints.table(seen, cast_there)
    place = folder if own else home / page_checkpoints.FOLDER
    return {
        "own": own,
        "seen": held_out(seen, evaluation),
        "pareto": pareto(seen, cast_there),
        "charts": page_tables.curves(seen, cast_there),
        "strengths": strengths(cast_there),
        "grids": page_gallery.grids(seen, cast_there, place, album, own),
        "heads": heads,
        "rows": [] if own else rows,
    }


def held_out(seen: Evaluation, evaluation: Evaluation) -> str:
    """What a run's own pictures are, beside those of the tables."""
    asked = {made.template for made in seen.pictures}
    many = len(seen.pictures) // max(1, len(seen.sources))
    known = {made.template for made in evaluation.pictures}
    some = "all" if asked <= known else "none" if not asked & known else "some"
    return (
        f"What the run itself saw while it trained: {many} pictures of each candidate, of {len(asked)} prompts, "
        f"{some} of which are asked below too, with seeds of their own."
    )


def title(evaluation: Evaluation, parts: Cast) -> str:
    """What the page is about: the run, else the adapter, else the base model."""
    run = evaluation.config.get("run") or evaluation.settings.get("run")
    main = parts.main or parts.base
    return clean(run or (main.label if main else "Evaluation"))


def strengths(parts: Cast) -> list[str]:
    """The strengths in the order of the plots' colours."""
    return [f"{value:g}" for value in sorted({source.strength for source in parts.others})]


def environment(home: Path) -> dict[str, Any]:
    """What env.json of the run says of versions and device; {} where there is none."""
    try:
        found = json.loads((home / "env.json").read_text("utf-8"))
        return {key: found[key] for key in ENVIRONMENT if key in found}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def pareto(evaluation: Evaluation, parts: Cast) -> dict[str, Any] | None:
    """Identity against prompt accuracy of every source; None where fewer than two have both."""
    found = [(source, *both(evaluation, source, parts)) for source in evaluation.sources]
    known = [(source, x, y) for source, x, y in found if x is not None and y is not None]
    if len(known) < 2 or len({(x.about.group, y.about.group) for _, x, y in known}) > 1:
        return None
    order = {strength: number for number, strength in enumerate(sorted({s.strength for s in parts.others}))}
    points = [
        plots.Point(
            name(source, parts), (x.value, x.low, x.high), (y.value, y.low, y.high),
            "base" if is_base(source) else "chosen" if parts.choice and source is parts.choice.source else "other",
            order.get(source.strength, 0) % 6,
        )
        for source, x, y in known
    ]  # fmt: skip
    _, x, y = known[0]
    way = (1 if x.about.better == "higher" else -1, 1 if y.about.better == "higher" else -1)
    names = (clean(x.about.name), clean(y.about.name))
    labels = {point.at: clean(source.label) for point, (source, _, _) in zip(points, known, strict=True)}
    best = [labels[point.at] for point in plots.front(points, *way)]
    kinds = {point.kind for point in points}
    drawing = plots.pareto(points, names, way)
    told = {"ring": "chosen" in kinds, "base": "base" in kinds, "bars": not plots.crowded(points)}
    return {"drawing": drawing, "front": best, **told}


def name(source: Source, parts: Cast) -> str:
    """A source's name in a plot: of many checkpoints the step alone, their strength is a colour."""
    many = len(parts.others) > 4 and varied(parts.others) and source.step and source is not parts.main
    return str(source.step) if many else clean(source.label)


def both(evaluation: Evaluation, source: Source, parts: Cast) -> tuple[Score | None, Score | None]:
    """A source's prompt and identity score, the same two for everyone: those that speak for the main source."""
    named = (headline(evaluation, key, parts.main.label) if parts.main else None for key in ("prompt", "identity"))
    one, two = (evaluation.score(row.about.name, source.label, row.set) if row else None for row in named)
    return one, two
