"""The checkpoints that a run scored while it trained (choice.json), as an evaluation that plots and grids can show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio.evaluation.page_private import clean
from studio.evaluation.page_roles import Cast, cast
from studio.evaluation.page_words import between, number, places
from studio.evaluation.records import Evaluation, Made, Score, Source
from studio.pipelines.errors import StudioError
from studio.pipelines.protocols import About

if TYPE_CHECKING:
    from studio.choice import Marks, Ranking
    from studio.choice_file import Ledger

FOLDER = "choice"  # of the run: its pictures


@dataclass(frozen=True)
class Row:
    """A candidate as texts. cells: (value, interval) per column."""

    name: str
    picked: bool
    cells: list[tuple[str, str]]


def read(run: Path, like: Source | None) -> Evaluation | None:
    """The candidates of a run's folder with the numbers of its choice.json; None where none were scored.

    like: has the trigger and the class word.
    """
    from studio.choice_file import NAME, Ledger

    ledger = Ledger.read(run / NAME)
    try:
        ranking = ledger.ranking()
    except StudioError:
        return None
    if ranking is None:
        return None
    asked, pictures = [str(text) for text in ledger.about["prompts"]], len(ranking.marks[0].identity)
    words = (like.model, like.trigger, like.class_word) if like else ("", "", "")
    base = Source("base", words[0], "", 1.0, 0, "", words[2])
    found = Evaluation(settings={"choice": ledger.picked} if ledger.picked else {})
    found.sources.append(base)
    found.pictures += made(base, asked, pictures)
    for one, marks in enumerate(ranking.marks):
        source = Source(marks.label, words[0], "", marks.strength, marks.step, words[1], words[2])
        first = len(found.pictures)
        found.sources.append(source)
        found.pictures += made(source, asked, pictures)
        found.scores += scores(ledger, ranking, one, first)
    return found


def made(source: Source, asked: list[str], pictures: int) -> Iterator[Made]:
    """A candidate's pictures, seed by seed, where `studio.choice_exam` keeps them."""
    from studio.choice_exam import ASKED, FIRST_SEED
    from studio.evaluation.sets import fill

    label = f"{source.step:06}-{source.strength:g}" if source.step else source.label
    called = " ".join(filter(None, (source.trigger, source.class_word)))
    for at in range(pictures):
        prompt, seed = at % len(asked), FIRST_SEED + at // len(asked)
        words = (fill(asked[prompt], called), fill(asked[prompt], source.class_word))
        yield Made(f"pictures/{label}/{ASKED}-{prompt:02}-{seed}.png", source.label, ASKED, asked[prompt], *words, seed)


def scores(ledger: Ledger, ranking: Ranking, one: int, first: int) -> Iterator[Score]:
    """A candidate's identity, prompt accuracy, points and drift."""
    marks, judge = ranking.marks[one], str(ledger.about.get("judge", ""))
    known = {"identity": ledger.scale.identity[0], "prompt": None, "points": None}
    for kind, name in (("identity", "identity"), ("prompt", "prompt accuracy"), ("points", "points")):
        own = ranking.own(kind, one)  # type: ignore[arg-type]
        values = values_of(marks, kind)
        indexes = tuple(range(first, first + len(values)))
        about = About(name, judge, "", f"{name} while training", per="picture" if values else "set")
        yield Score(
            about, marks.label, "", own.mean, own.low, own.high, len(marks.identity), indexes, values, known[kind]
        )
    about = About("drift", judge, "", "drift while training", "lower", "set")
    nothing = float("nan")
    yield Score(about, marks.label, "", marks.drift, nothing, nothing, len(marks.identity))


def values_of(marks: Marks, kind: str) -> tuple[float, ...]:
    """A candidate's number of each picture, where there is one."""
    return {"identity": marks.identity, "prompt": marks.prompt}.get(kind, ())


def table(evaluation: Evaluation, parts: Cast | None = None) -> tuple[list[str], list[Row]]:
    """Names of columns, and a row per candidate."""
    main = (parts or cast(evaluation)).choice
    names = list(dict.fromkeys(score.about.name for score in evaluation.scores))
    digits = {name: places(*(s for s in evaluation.scores if s.about.name == name)) for name in names}
    rows = []
    for source in (one for one in evaluation.sources if one.step):
        found = [(name, evaluation.score(name, source.label)) for name in names]
        cells = [(number(s.value, digits[n]), between(s.low, s.high, digits[n])) if s else ("", "") for n, s in found]
        rows.append(Row(clean(source.label), main is not None and main.source is source, cells))
    return names, rows
