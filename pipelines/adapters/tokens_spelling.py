"""Tokenizers that know new words: each is spelled out as its vectors, in every prompt, by the tokenizer itself."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from studio.pipelines.errors import UsageError

LETTER = r"[\p{L}\p{N}]"  # a word is not found inside a longer one


def extended(tokenizer: Any, words: Sequence[str], vectors: int) -> tuple[Any, list[int]]:
    """A copy of a tokenizer in which each word is `vectors` tokens, and their ids, word by word.

    The copy is of the same class, so stock pipelines take it. Raises UsageError for a word that it has already.
    """
    if not hasattr(tokenizer, "is_fast"):  # none of transformers': the toy's
        return _toy(tokenizer, words, vectors)
    if taken := [word for word in words if word in tokenizer.get_vocab()]:
        raise UsageError(f"tokens.words: the tokenizer knows {taken[0]!r} already; write it as <{bare(taken[0])}>")
    made = copy.deepcopy(tokenizer)
    spell(made, words, vectors)
    names = [piece for word in words for piece in pieces(word, vectors)]
    made.add_tokens(_plain(names))
    return made, [int(number) for number in made.convert_tokens_to_ids(names)]


def spell(tokenizer: Any, words: Sequence[str], vectors: int) -> None:
    """Has a tokenizer replace each word by its pieces before it looks for tokens. Raises UsageError for an old one."""
    from tokenizers import Regex, normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(f"tokens.words: a {type(tokenizer).__name__} takes no new words; use a fast tokenizer")
    before = backend.normalizer
    rules = [
        normalizers.Replace(
            Regex(pattern(before.normalize_str(word) if before else word)), "".join(pieces(word, vectors))
        )
        for word in words
    ]
    backend.normalizer = normalizers.Sequence([*([before] if before else []), *rules])


def pattern(word: str) -> str:
    """The regular expression of a word that is not part of a longer one; of `<word>`, wherever it is."""
    left, right = (f"(?<!{LETTER})" if word[0].isalnum() else "", f"(?!{LETTER})" if word[-1].isalnum() else "")
    return left + re.escape(word) + right


def pieces(word: str, vectors: int) -> list[str]:
    """Names of a word's vectors in the tokenizer; none has the word in it, or it would be replaced in turn."""
    return [f"<v{bare(word).lower()}v{number}>" for number in range(vectors)]


def stock_names(word: str, vectors: int) -> list[str]:
    """The names stock pipelines give the vectors of a word, and look for when they spell it out."""
    return [word, *(f"{word}_{number}" for number in range(1, vectors))]


def bare(word: str) -> str:
    """The word without its brackets."""
    return re.sub(r"\W", "", word)


def ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, without those that begin, end and fill."""
    if not hasattr(tokenizer, "is_fast"):
        return [number for number in tokenizer.row(text) if number > 1]
    found = tokenizer(text, add_special_tokens=False, padding=False, truncation=True)["input_ids"]
    return [int(number) for number in found]


def _plain(names: Sequence[str]) -> list[Any]:
    """Tokens that are looked for after the words were replaced."""
    from tokenizers import AddedToken

    return [AddedToken(name, normalized=True) for name in names]


def _toy(tokenizer: Any, words: Sequence[str], vectors: int) -> tuple[Any, list[int]]:
    made, numbers = copy.copy(tokenizer), range(tokenizer.size, tokenizer.size + len(words) * vectors)
    made.added = {
        word.lower(): list(numbers[start : start + vectors])
        for word, start in zip(words, range(0, len(numbers), vectors), strict=True)
    }
    return made, list(numbers)
