"""How many tokens a caption has for each tokenizer, and what of it the text encoder never sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ENDLESS = 10**6  # transformers gives a tokenizer without a limit a length of 10^30


@dataclass(frozen=True)
class Tokens:
    """A caption's tokens, uncut, with those that begin and end it; the limit; the end of the text that is cut off."""

    count: int
    limit: int
    cut: str


def count(tokenizer: Any, text: str, limit: int) -> Tokens:
    """The tokens of one caption.

    A tokenizer that is none of transformers' is taken as the toy's: one token that begins, one for each word.
    """
    if not hasattr(tokenizer, "is_fast"):
        words = text.split()
        return Tokens(1 + len(words), limit, " ".join(words[max(0, limit - 1) :]))
    options = {"truncation": False, "return_special_tokens_mask": True, "verbose": False}
    read = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, **options)
    special = read["special_tokens_mask"]
    room = max(0, limit - sum(special))
    own = [number for number, mark in enumerate(special) if not mark]
    if len(own) <= room:
        cut = ""
    elif tokenizer.is_fast:
        cut = text[read["offset_mapping"][own[room]][0] :].strip()
    else:
        cut = str(tokenizer.decode([read["input_ids"][number] for number in own[room:]]))
    return Tokens(len(special), limit, cut)


def count_all(
    tokenizers: Mapping[str, Any], captions: Sequence[str], limits: Mapping[str, int] | None = None
) -> dict[str, tuple[Tokens, ...]]:
    """For each tokenizer by name, the tokens of each caption. limits: where they are not the tokenizer's own."""
    counted = {}
    for name, tokenizer in tokenizers.items():
        limit = (limits or {}).get(name) or min(ENDLESS, getattr(tokenizer, "model_max_length", ENDLESS))
        once = {text: count(tokenizer, text, limit) for text in dict.fromkeys(captions)}
        counted[name] = tuple(once[text] for text in captions)
    return counted
