"""Which scores answer which of a person's questions: identity, prompts, diversity, copies, drift, leak, the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from studio.evaluation.page_kinds import kind, twins
from studio.evaluation.page_run import NOWHERE, Origin
from studio.evaluation.records import Evaluation, Score, Source

BASE = "base"
EVEN, ENOUGH = 0.03, 32  # of the base model's number; pictures


@dataclass(frozen=True)
class Role:
    """A question. names: expressions for scores' names, the best answer first; more, less: a change in words; same:
    that none is shown; even: that it is small for sure; zero: the base model's number is 0 by definition.
    """

    key: str
    title: str
    question: str
    names: tuple[str, ...]
    more: str = ""
    less: str = ""
    same: str = ""
    even: str = ""
    zero: bool = False


ROLES = (
    Role(
        "identity", "Identity", "Is it this subject, not just one of its class?",
        (r"^identity$", r"^identity.mean", r"identity", r"subject", r"^dino", r"clip-?i\b", r"traits|image similarity"),
        "The pictures look more like the subject than the base model's do",
        "The pictures look less like the subject than the base model's do",
        "The pictures do not clearly look more like the subject than the base model's do",
    ),
    Role(
        "prompt", "Prompt accuracy", "Does it still draw what the prompt says?",
        (
            r"^prompt.accuracy", r"attributes|stated", r"prompt", r"^clip-?t\b", r"^clip-?score", r"^siglip", r"^blip",
            r"^f-?clip", r"caption",
        ),
        "It follows prompts better than the base model", "It follows prompts less well than the base model",
        "It is not shown to follow prompts worse or better than the base model",
        "It follows prompts as well as the base model",
    ),
    Role(
        "diversity", "Diversity", "Do seeds still give different pictures?",
        (r"^diversity", r"diversity", r"^vendi", r"^lpips"),
        "Its pictures vary more than the base model's", "Its pictures vary less than the base model's",
        "Its pictures are not shown to vary less or more than the base model's",
        "Its pictures vary as much as the base model's",
    ),
    Role(
        "copy", "Copy risk", "Does it repeat training pictures?",
        (r"^copies", r"^copy.risk", r"copy|copies|memori"),
        "It repeats training pictures less than the base model",
        "It repeats training pictures more than the base model",
        "It is not shown to repeat training pictures more than the base model",
    ),
    Role(
        "drift", "Prior drift", "Did the rest of the class change?",
        (r"^(prior.)?drift", r"drift|preservation"),
        "Without the trigger its pictures moved back", "Without the trigger its pictures drifted",
        "It is not shown that its pictures without the trigger drifted",
        zero=True,
    ),
    Role(
        "leak", "Trigger leak", "Does the subject appear without its trigger?",
        (r"^(trigger.)?leak$", r"leak"),
        "Without the trigger the subject appears less", "Without the trigger the subject still appears",
        "It is not shown that the subject appears without the trigger",
        zero=True,
    ),
    Role("rest", "Quality and the rest", "How do the pictures look, whatever they show?", (r"",)),
)  # fmt: skip
NARROW_FIRST = ("copy", "drift", "leak", "diversity", "identity", "prompt", "rest")


def role(name: str) -> Role:
    """The question a score of this name answers."""
    ordered = sorted(ROLES, key=lambda one: NARROW_FIRST.index(one.key))
    return next(one for one in ordered if any(re.search(pattern, name.lower()) for pattern in one.names))


def headline(evaluation: Evaluation, key: str, source: str) -> Score | None:
    """The score that answers a question best for a source: over all prompts, else over the only set it was taken on."""
    one = next(row for row in ROLES if row.key == key)
    mine = [s for s in evaluation.scores if s.source == source and role(s.about.name) is one]
    ordered = [s for pattern in one.names for s in mine if re.search(pattern, s.about.name.lower())]
    names = {name: [s for s in mine if s.about.name == name] for name in dict.fromkeys(s.about.name for s in ordered)}
    whole = [s for rows in names.values() for s in rows if not s.set or len(sets_of(rows)) == 1]
    return next((s for s in whole if not math.isnan(s.value)), whole[0] if whole else None)


def sets_of(scores: Iterable[Score]) -> list[str]:
    """The prompt sets of scores, in order; "" for all prompts comes first."""
    found = dict.fromkeys(score.set for score in scores)
    return sorted(found, key=lambda name: name != "")


def is_base(source: Source) -> bool:
    """Whether a source is the base model: no adapter's file, no checkpoint's step."""
    return source.label == BASE or not (source.file or source.step)


def grounded(score: Score) -> Score:
    """Beside the base model, whose drift and leak are 0 by definition: the whole number is the change."""
    if score.change is not None or not role(score.about.name).zero or not math.isfinite(score.value):
        return score
    return replace(score, base=0.0, change=score.value, change_low=score.low, change_high=score.high)


def gain(score: Score) -> tuple[float, float, float] | None:
    """(change, low, high) beside the base model with more always better; None where one of them is unknown."""
    score = grounded(score)
    given = (score.change, score.change_low, score.change_high)
    known = [value for value in given if value is not None and math.isfinite(value)]
    if len(known) < 3:
        return None
    found, low, high = known
    return (found, low, high) if score.about.better == "higher" else (-found, -high, -low)


def tone(score: Score) -> str:
    """better, worse or same: which side of zero the whole interval of the change is on; "" without a change."""
    change = gain(score)
    if change is None:
        return ""
    return "better" if change[1] > 0 else "worse" if change[2] < 0 else "same"


def even(score: Score) -> bool:
    """Whether it is as good as the base model's: the whole interval within `EVEN` of it, from enough pictures."""
    change = gain(score)
    if change is None or score.base is None or score.n < ENOUGH:
        return False
    return max(abs(change[1]), abs(change[2])) <= EVEN * abs(score.base)


def falling(evaluation: Evaluation, answer: Score) -> list[Score]:
    """The other numbers of an answer's question that are significantly worse over all prompts; each number once."""
    asked, twin = role(answer.about.name), twins(evaluation.scores)
    if asked.zero:  # all its numbers say the same in other units
        return []
    mine = [s for s in evaluation.scores if s.source == answer.source and role(s.about.name) is asked]
    others = [s for s in mine if s.about != answer.about and kind(s) not in twin and tone(s) == "worse"]
    alone = {kind(s) for s in mine} - {kind(s) for s in mine if not s.set}  # taken on single sets only
    return [s for s in others if not s.set or kind(s) in alone]


@dataclass(frozen=True)
class Choice:
    """The recommended source, and why."""

    source: Source | None
    strength: float | None = None
    step: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Cast:
    """Who is compared. main: whom the summary is about; shown: the sources whose pictures are shown, main first;
    origin: the run behind them.
    """

    base: Source | None
    others: list[Source] = field(default_factory=list)
    main: Source | None = None
    shown: list[Source] = field(default_factory=list)
    choice: Choice | None = None
    origin: Origin = NOWHERE


def cast(evaluation: Evaluation, most: int = 3, origin: Origin = NOWHERE) -> Cast:
    """Who plays which part. Of several checkpoints and strengths of one adapter only the main one is shown."""
    bases = [source for source in evaluation.sources if is_base(source)]
    others = [source for source in evaluation.sources if not is_base(source)]
    choice = chosen(evaluation, others, origin)
    main = choice.source if choice and choice.source else usual(others)
    same = [s for s in bases if main is not None and (s.model, s.class_word) == (main.model, main.class_word)]
    base = next(iter([*same, *bases]), None)
    if main is None:
        return Cast(base, others, None, [], choice, origin)
    shown = [main, *(source for source in others if source is not main)]
    return Cast(base, others, main, shown if len(others) <= most and not varied(others) else [main], choice, origin)


def usual(others: list[Source]) -> Source | None:
    """Without a recommendation: the finished adapter or else the last checkpoint, at the strength nearest to 1."""
    return min(others, key=lambda s: (s.step != 0, -s.step, abs(s.strength - 1)), default=None)


def varied(sources: list[Source]) -> bool:
    """Whether these are checkpoints or strengths of one adapter."""
    return len({source.step for source in sources}) > 1 or len({source.strength for source in sources}) > 1


def chosen(evaluation: Evaluation, others: list[Source], origin: Origin = NOWHERE) -> Choice | None:
    """`settings['choice']`, else the run's own: a sentence, or label, step, strength and reason, as far as it says."""
    found = evaluation.settings.get("choice") or dict(origin.choice)
    if not isinstance(found, dict) or not found:
        return Choice(None, reason=str(found)) if found else None
    step, strength, label = found.get("step"), found.get("strength"), found.get("label", found.get("source"))
    wanted = {"label": label, "step": step, "strength": strength}
    wanted = {key: value for key, value in wanted.items() if value is not None}

    def fits(source: Source) -> bool:
        """Whether a source is the one that is meant."""
        held = origin.of(source)
        told = {"label": source.label, "step": held.step, "strength": held.strength}
        return bool(wanted) and all(told[key] == value for key, value in wanted.items())

    return Choice(next(filter(fits, others), None), strength, step, str(found.get("reason", "")))
