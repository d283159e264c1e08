"""The first sentences of a page: is the adapter any good, as far as the intervals say."""

from __future__ import annotations

from studio.evaluation.page_private import clean
from studio.evaluation.page_words import LEAK, MUCH, Fact, listed


def verdict(found: list[Fact]) -> tuple[str, str]:
    """(tone, sentence): is it any good, as far as the intervals say."""
    rows = {row.role.key: row for row in found}
    if not found:
        return "", "Nothing was scored."
    if "identity" not in rows:
        return "", "How much its pictures look like the subject was not measured."
    identity = rows["identity"].tone
    if identity == "better":
        kind, obeys = obedience(rows.get("prompt"))
        return "mixed" if kind == "better" and any(map(leaks, found)) else kind, obeys
    if identity == "worse":
        return "worse", "It moved away from the subject: the base model's pictures look more like it."
    if identity == "same":
        return (
            "same",
            "It is not shown that it learned the subject: beside the base model, the difference is within the noise.",
        )
    return "", "How much of this the base model does already is not known, so the numbers stand alone."


def obedience(prompt: Fact | None) -> tuple[str, str]:
    """(tone, sentence) of an adapter that learned its subject: whether it still does what prompts say."""
    if prompt is None or not prompt.tone:
        return "better", "It learned the subject. How well it follows prompts was not compared with the base model."
    if prompt.tone == "worse":
        return "mixed", "It learned the subject, and lost some of its obedience to prompts."
    measure = clean(prompt.score.about.name)
    if prompt.but:
        held = "is not shown to be worse" if prompt.tone == "same" and not prompt.even else "holds"
        verb = "fall" if len(prompt.but) > 1 else "falls"
        return "mixed", (
            f"It learned the subject. Whether it still does what prompts say is open: {measure} {held}, but "
            f"{listed(prompt.but)} clearly {verb}."
        )
    if prompt.tone == "better":
        return "better", "It learned the subject, and follows prompts better than the base model."
    if prompt.even:
        return "better", "It learned the subject, and still does what prompts say."
    return "better", "It learned the subject, and is not shown to follow prompts worse than the base model."


def leaks(fact: Fact) -> bool:
    """Whether it says that much of the subject is shown without its trigger."""
    return (
        fact.role.key == "leak" and fact.tone == "worse" and (fact.score.about.name != LEAK or fact.score.value >= MUCH)
    )


def warning(found: list[Fact]) -> str:
    """Which other questions were answered worse than by the base model, and how much of the subject leaks."""
    rows = [row for row in found if row.tone == "worse" and row.role.key not in ("identity", "prompt")]
    said = [f"Worse than with the base model: {listed([row.role.title.lower() for row in rows])}."] if rows else []
    return " ".join([*said, *(row.claim for row in rows if row.role.key == "leak")])
