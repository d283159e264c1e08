"""Which scores answer which of a person's questions: identity, prompts, diversity, copies, drift, leak, the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from studio.evaluation.records import Evaluation, Score, Source

BASE = "base"


@dataclass(frozen=True)
class Role:
    """A question. names: expressions for scores' names, the best answer first; more, less, same: a change in words."""

    key: str
    title: str
    question: str
    names: tuple[str, ...]
    more: str = ""
    less: str = ""
    same: str = ""


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
        "It follows prompts about as well as the base model",
    ),
    Role(
        "diversity", "Diversity", "Do seeds still give different pictures?",
        (r"^diversity", r"diversity", r"^vendi", r"^lpips"),
        "Its pictures vary more than the base model's", "Its pictures vary less than the base model's",
        "Its pictures vary about as much as the base model's",
    ),
    Role(
        "copy", "Copy risk", "Does it repeat training pictures?",
        (r"^copies", r"^copy.risk", r"copy|copies|memori"),
        "It repeats training pictures less than the base model",
        "It repeats training pictures more than the base model",
        "It does not clearly repeat training pictures more than the base model",
    ),
    Role(
        "drift", "Prior drift", "Did the rest of the class change?",
        (r"^(prior.)?drift", r"drift|preservation"),
        "Without the trigger its pictures moved back", "Without the trigger its pictures drifted",
        "Without the trigger its pictures did not clearly drift",
    ),
    Role(
        "leak", "Trigger leak", "Does the subject appear without its trigger?",
        (r"^(trigger.)?leak$", r"leak"),
        "Without the trigger the subject appears less", "Without the trigger the subject still appears",
        "Without the trigger the subject does not clearly appear",
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


def gain(score: Score) -> tuple[float, float, float] | None:
    """(change, low, high) beside the base model with more always better; None where one of them is unknown."""
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


@dataclass(frozen=True)
class Choice:
    """The recommended source, and why."""

    source: Source | None
    strength: float | None = None
    step: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Cast:
    """Who is compared. main: whom the summary is about; shown: the sources whose pictures are shown, main first."""

    base: Source | None
    others: list[Source] = field(default_factory=list)
    main: Source | None = None
    shown: list[Source] = field(default_factory=list)
    choice: Choice | None = None


def cast(evaluation: Evaluation, most: int = 3) -> Cast:
    """Who plays which part. Of several checkpoints and strengths of one adapter only the main one is shown."""
    bases = [source for source in evaluation.sources if is_base(source)]
    others = [source for source in evaluation.sources if not is_base(source)]
    choice = chosen(evaluation, others)
    main = choice.source if choice and choice.source else usual(others)
    same = [s for s in bases if main is not None and (s.model, s.class_word) == (main.model, main.class_word)]
    base = next(iter([*same, *bases]), None)
    if main is None:
        return Cast(base, others, None, [], choice)
    shown = [main, *(source for source in others if source is not main)]
    return Cast(base, others, main, shown if len(others) <= most and not varied(others) else [main], choice)


def usual(others: list[Source]) -> Source | None:
    """Without a recommendation: the finished adapter or else the last checkpoint, at the strength nearest to 1."""
    return min(others, key=lambda s: (s.step != 0, -s.step, abs(s.strength - 1)), default=None)


def varied(sources: list[Source]) -> bool:
    """Whether these are checkpoints or strengths of one adapter."""
    return len({source.step for source in sources}) > 1 or len({source.strength for source in sources}) > 1


def chosen(evaluation: Evaluation, others: list[Source]) -> Choice | None:
    """`settings['choice']`: a sentence, or a mapping with label, step, strength and reason, as far as it says."""
    found = evaluation.settings.get("choice")
    if not isinstance(found, dict):
        return Choice(None, reason=str(found)) if found else None
    step, strength, label = found.get("step"), found.get("strength"), found.get("label", found.get("source"))
    wanted = {"label": label, "step": step, "strength": strength}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    fits = [s for s in others if wanted and all(getattr(s, key) == value for key, value in wanted.items())]
    return Choice(fits[0] if fits else None, strength, step, str(found.get("reason", "")))
