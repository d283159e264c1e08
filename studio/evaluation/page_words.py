"""What an evaluation found, in words: a verdict, a sentence per question, numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from studio.evaluation.page_private import clean
from studio.evaluation.page_roles import EVEN, ROLES, Cast, Role, even, falling, grounded, headline, tone
from studio.evaluation.records import Evaluation, Score

MINUS, NOTHING = "\N{MINUS SIGN}", "-"
ARROWS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}
LEAK, MUCH, WHOLE = "leak", 0.5, 0.9  # the leak as a share of what the trigger adds
TOTAL = "It acts as much without its trigger as with it"
TONES = {"better": "better", "worse": "worse", "same": "no clear change", "": ""}


@dataclass(frozen=True)
class Fact:
    """An answer to a question. claim: without its numbers; sentence: with them; value, base, beside: its numbers as
    texts; even: it is shown to be as good as the base model's; but: other numbers of the question, clearly worse.
    """

    role: Role
    score: Score
    tone: str
    claim: str
    sentence: str
    value: str
    base: str
    beside: str
    even: bool = False
    but: tuple[str, ...] = ()


def number(value: float | None, places: int, sign: bool = False) -> str:
    """A number with so many decimal places and a true minus sign; `-` where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:{'+' if sign else ''}.{places}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", MINUS)


def places(*scores: Score) -> int:
    """Decimal places that show three figures of the largest of these."""
    known = [abs(v) for s in scores for v in (s.value, s.base) if v is not None and math.isfinite(v) and v]
    return min(6, max(0, 3 - math.ceil(math.log10(max(known))))) if known else 3


def between(low: float | None, high: float | None, digits: int, sign: bool = False) -> str:
    """An interval; "" where it is unknown."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number(low, digits, sign)} to {number(high, digits, sign)}"


def unit(score: Score) -> str:
    """The unit behind a number, with its space."""
    return f" {score.about.unit}" if score.about.unit else ""


def facts(evaluation: Evaluation, cast: Cast) -> list[Fact]:
    """The answers for the source the page is about, one per question."""
    if cast.main is None:
        return []
    found = ((role, headline(evaluation, role.key, cast.main.label)) for role in ROLES if role.key != "rest")
    return [fact(role, score, falling(evaluation, score)) for role, score in found if score is not None]


def fact(role: Role, score: Score, others: Sequence[Score] = ()) -> Fact:
    """One answer. others: numbers of the same question that are clearly worse than the base model's."""
    score = grounded(score)
    digits, kind = places(score), tone(score)
    value, interval = number(score.value, digits) + unit(score), between(score.low, score.high, digits)
    base = number(score.base, digits) if score.base is not None and not role.zero else ""
    wide = between(score.change_low, score.change_high, digits, sign=True)
    known = "95\N{NO-BREAK SPACE}% interval "
    measure, claim = f"{clean(score.about.name)} {value}", ""
    beside = f"{known}{interval}" if interval else ""
    if kind:
        claim = claimed(role, score, kind) + "."
        beside = beside if role.zero else f"{number(score.change, digits, sign=True)}, {known}{wide}"
        words = f"{claim[:-1]} ({measure}{f', base {base}: ' if base else ', '}{beside})."
    else:
        words = f"{role.title}: {measure}" + (f" ({beside})." if beside else ".")
    if others:
        worse = f"{'Also' if kind == 'worse' else 'But'} clearly worse: {listed(moved(others))}."
        claim, words = f"{claim} {worse}".strip(), f"{words} {worse}"
    but = tuple(clean(one.about.name) for one in others)
    return Fact(role, score, kind, claim, words, value, base, beside, bool(kind) and even(score), but)


def claimed(role: Role, score: Score, kind: str) -> str:
    """What a tone means for a question; of a leak also how much."""
    if kind == "worse" and score.about.name == LEAK and score.value >= MUCH:
        return TOTAL if score.value >= WHOLE else "Without the trigger much of the subject still appears"
    if kind == "same" and even(score) and role.even:
        return f"{role.even}, within {EVEN:.0%}"
    return {"better": role.more, "worse": role.less, "same": role.same}[kind]


def moved(scores: Sequence[Score]) -> list[str]:
    """`caption-recall −0.274` of each: the change beside the base model."""
    return [f"{clean(one.about.name)} {number(one.change, places(one), sign=True)}{unit(one)}" for one in scores]


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def limits(evaluation: Evaluation, cast: Cast) -> list[str]:
    """What a reader of the numbers should keep in mind."""
    label = cast.main.label if cast.main else ""
    mine = [i for i, made in enumerate(evaluation.pictures) if made.source == label]
    prompts = {(evaluation.pictures[i].set, evaluation.pictures[i].template) for i in mine}
    rows = []
    if mine:
        seeds = len({evaluation.pictures[i].seed for i in mine})
        rows.append(
            f"The numbers come from {len(mine)} pictures: {len(prompts)} prompts with {seeds} seed{'s' * (seeds != 1)}."
            " The intervals say what other prompts and seeds might have given, not what another training would."
        )
    near = [pair for pair in evaluation.pairs if pair.picture in set(mine)]
    if near:
        top = max(near, key=lambda pair: pair.similarity)
        rows.append(
            f"The picture closest to a training picture (No\N{NO-BREAK SPACE}{top.picture + 1}) has a similarity of "
            f"{top.similarity:.3f} to it; look at the pairs before you show the adapter's pictures to others."
        )
    return rows
