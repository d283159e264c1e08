"""A subject's words in a caption: the trigger put before the class word, and the caption's twin without it.

Direct Consistency Optimization (arXiv 2402.12004) compares a caption with the trigger to the same caption with the
class word in its place; `twin` makes the second from the first, so that nothing but the caption need be kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from studio.pipelines.captioners.kindred import KINDRED

LEADS = re.compile(
    r"^(?:(?:the|this) (?:image|picture|photo|photograph) (?:shows|depicts|features|captures|is of) "
    r"|in (?:the|this) (?:image|picture|photo|photograph),? (?:we (?:can )?see |there (?:is|are) )?"
    r"|there (?:is|are) (?=(?:an?|one|two|three|some|several|many) ))",
    re.IGNORECASE,
)


def tidy(text: str) -> str:
    """A captioner's sentence as a caption: one line, without "the image shows" before it or a full stop after it."""
    return LEADS.sub("", " ".join(text.split())).rstrip(" .")


def article(word: str) -> str:
    """'a' or 'an', by the first letters."""
    low = word.lower()
    vowel = low[:1] in tuple("aeiou") and not low.startswith(("uni", "eu", "one", "use"))
    return "an" if vowel or low.startswith(("hour", "honest", "heir")) else "a"


def says(text: str, word: str) -> bool:
    """Whether the text has the word, as a word of its own, in capitals or not."""
    return bool(word) and first(text, (word,)) is not None


def first(text: str, nouns: Iterable[str]) -> re.Match[str] | None:
    """Where the text has one of the words first; of two that begin there, the longer one."""
    either = "|".join(re.escape(noun) for noun in sorted(nouns, key=len, reverse=True) if noun)
    return re.search(rf"(?<!\w)(?:{either})(?!\w)", text, re.IGNORECASE) if either else None


def place(caption: str, trigger: str, class_word: str, nouns: Iterable[str] = ()) -> str:
    """The caption with the trigger before its class word.

    The class word itself is looked for, then what else captioners call such a thing, then `nouns`; the first that is
    found is replaced. Where none is, "a photo of TRIGGER CLASS, " goes before. A caption with the trigger stays.
    """
    if not trigger or says(caption, trigger):
        return caption
    called = f"{trigger} {class_word}".strip()
    kindred = KINDRED.get(class_word.lower(), "").split("|")
    groups: tuple[Iterable[str], ...] = ((class_word,), kindred, nouns) if class_word else ()
    for group in groups:
        if found := first(caption, group):
            head = with_article(caption[: found.start()], called)
            return f"{head}{called}{caption[found.end() :]}"
    return f"a photo of {called}, {caption}".rstrip(", ")


def twin(caption: str, trigger: str, class_word: str) -> str:
    """The same caption without the trigger: the class word stands alone where it stood.

    Without a class word the trigger goes, and with it "in TRIGGER style" or the "a photo of TRIGGER, " of `place`.
    """
    if not says(caption, trigger):
        return caption
    called, style = re.escape(trigger), r"(?:[ -]style)?" if not class_word else ""
    if not class_word:
        caption = re.sub(rf"^a photo of {called}(?:, |$)", "", caption, flags=re.IGNORECASE)
        caption = re.sub(rf",?\s*\bin (?:the |an? )?{called}[ -]style\b", "", caption, flags=re.IGNORECASE)
    noun = rf"(?:\s+{re.escape(class_word)}(?!\w))?" if class_word else r"\s*"
    parts = re.split(rf"(?<!\w){called}(?!\w){style}{noun}", caption, flags=re.IGNORECASE)
    text = parts[0]
    for part in parts[1:]:
        text = with_article(text, class_word or part) + class_word + part
    return re.sub(r"\s+([,.;])", r"\1", " ".join(text.split())).strip(" ,")


def with_article(head: str, following: str) -> str:
    """The words before a noun, their last one, if it is an article, made to fit what follows."""
    found = re.search(r"\b(an?)\s+$", head, re.IGNORECASE)
    if not found or not following.strip():
        return head
    fitting = article(following)
    return head[: found.start()] + (fitting.capitalize() if found[1][0].isupper() else fitting) + " "
