"""What an evaluation found, in words: a verdict, a sentence per question, numbers as people read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from studio.evaluation.page_private import clean
from studio.evaluation.page_roles import ROLES, Cast, Role, headline, tone
from studio.evaluation.records import Evaluation, Score

MINUS, NOTHING = "\N{MINUS SIGN}", "-"
ARROWS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}
TONES = {"better": "better", "worse": "worse", "same": "no clear change", "": ""}


@dataclass(frozen=True)
class Fact:
    """An answer to a question. claim: without its numbers; sentence: with them; the others: its numbers as texts."""

    role: Role
    score: Score
    tone: str
    claim: str
    sentence: str
    value: str
    base: str
    beside: str


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
    return [fact(role, score) for role, score in found if score is not None]


def fact(role: Role, score: Score) -> Fact:
    """One answer."""
    digits, kind = places(score), tone(score)
    value, interval = number(score.value, digits) + unit(score), between(score.low, score.high, digits)
    base = number(score.base, digits) if score.base is not None else ""
    change = number(score.change, digits, sign=True) if score.change is not None else ""
    wide = between(score.change_low, score.change_high, digits, sign=True)
    known = "95\N{NO-BREAK SPACE}% interval "
    measure, claim = f"{clean(score.about.name)} {value}", ""
    if kind:
        claim = {"better": role.more, "worse": role.less, "same": role.same}[kind] + "."
        words = f"{claim[:-1]} ({measure}, base {base}: {change}, {known}{wide})."
    else:
        words = f"{role.title}: {measure}" + (f" ({known}{interval})." if interval else ".")
    beside = f"{change}, {known}{wide}" if kind else f"{known}{interval}" if interval else ""
    return Fact(role, score, kind, claim, words, value, base, beside)


def verdict(found: list[Fact]) -> tuple[str, str]:
    """(tone, sentence): is it any good, as far as the intervals say."""
    tones = {row.role.key: row.tone for row in found}
    if not found:
        return "", "Nothing was scored."
    identity, prompt = tones.get("identity"), tones.get("prompt")
    if identity == "better" and prompt == "worse":
        return "mixed", "It learned the subject, and lost some of its obedience to prompts."
    if identity == "better" and prompt:
        return "better", "It learned the subject, and still does what prompts say."
    if identity == "better":
        return "better", "It learned the subject. How well it follows prompts was not compared with the base model."
    if identity == "worse":
        return "worse", "It moved away from the subject: the base model's pictures look more like it."
    if identity == "same":
        return (
            "same",
            "It is not shown that it learned the subject: beside the base model, the difference is within the noise.",
        )
    if "identity" in tones:
        return "", "How much of this the base model does already is not known, so the numbers stand alone."
    return "", "How much its pictures look like the subject was not measured."


def warning(found: list[Fact]) -> str:
    """Which other questions were answered worse than by the base model."""
    names = [
        row.role.title.lower() for row in found if row.tone == "worse" and row.role.key not in ("identity", "prompt")
    ]
    if not names:
        return ""
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f"Worse than with the base model: {listed}."


def advice(cast: Cast) -> str:
    """The recommended checkpoint and strength with the reason, if one was chosen."""
    if cast.choice is None:
        return ""
    choice, source = cast.choice, cast.choice.source
    reason = clean(choice.reason).strip().rstrip(".")
    sentence = f" {reason[:1].upper()}{reason[1:]}." if reason else ""
    step = choice.step if choice.step is not None else source.step if source else None
    strength = choice.strength if choice.strength is not None else source.strength if source else None
    name = [clean(source.label)] if source and not source.label.startswith("step ") else []
    parts = [*name, *[f"step {step}"] * bool(step), *([f"strength {strength:g}"] if strength is not None else [])]
    if not parts or reason.startswith("step "):  # it names the checkpoint itself
        return f"Recommended: {reason}." if reason else ""
    return f"Recommended: {', '.join(parts)}." + sentence


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
