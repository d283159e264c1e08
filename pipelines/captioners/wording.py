"""The embedded world's wording: the judges' answers as a caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from studio.pipelines.captioners.base import Style
from studio.pipelines.captioners.words import article

PLURAL = frozenset(("grapes", "cherries", "fries", "glasses", "scissors", "dice"))
SIZES = ("small", "large")  # medium goes without saying


def sentence(answers: Mapping[str, str], style: Style = "comprehensive") -> str:
    """A caption in the embedded world's wording; plain: objects and background only.

    answers: object, second, colour, style, position, size, tint, as the judges name them; '' is not said. Position,
    size and tint are those of the left-most object.
    """
    full, second = style == "comprehensive", answers.get("second", "")
    size = answers.get("size", "")
    adjectives = [size if size in SIZES else "", answers.get("tint", "")] if full else []
    body = noun(answers["object"], adjectives)
    if second:
        sides = (" on the left", " on the right") if full else ("", "")
        body = f"{body}{sides[0]} and {noun(second)}{sides[1]}"
    elif full and (side := answers.get("position", "")):
        body += " in the center" if side == "center" else f" on the {side}"
    if full and (look := answers.get("style", "")):
        body = f"{article(look)} {look} drawing of {body}"
    colour = answers.get("colour", "")
    return f"{body} on {article(colour)} {colour} background" if colour else body


def noun(word: str, adjectives: Sequence[str] = ()) -> str:
    """A noun with its adjectives and its article."""
    phrase = " ".join([*filter(None, adjectives), word])
    return phrase if word in PLURAL else f"{article(phrase)} {phrase}"
