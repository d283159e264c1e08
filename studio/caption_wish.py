"""How captions shall be, and a caption as it is wished for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from studio.caption_rows import Words
from studio.pipelines.captioners import words
from studio.pipelines.data_examples import PLACES, fill_in


@dataclass(frozen=True)
class Wish:
    """How captions shall be. trigger, class_word: the subject's words, '' for none.

    prefix, suffix: around every caption; force: make those anew that are there; dry_run: write nothing; recursive:
    subfolders too; background: behind transparent pictures.
    """

    trigger: str = ""
    class_word: str = ""
    prefix: str = ""
    suffix: str = ""
    force: bool = False
    dry_run: bool = False
    recursive: bool = True
    background: str = "white"

    def sentence(self, said: str, subject: Words, nouns: Sequence[str] = ()) -> str:
        """The caption of a picture of which that was said; subject: its trigger and class word; nouns: for it."""
        trigger, class_word = subject
        filling = (trigger or PLACES[0], class_word or PLACES[1])
        prefix, suffix = (fill_in(text, filling) for text in (self.prefix, self.suffix))
        if not any(words.says(text, trigger) for text in (prefix, suffix)):
            said = words.place(said, trigger, class_word, nouns)
        whole = " ".join(text for text in (prefix, said, suffix) if text)
        return re.sub(r"\s+(?=[,.;:])", "", fill_in(whole, filling))
