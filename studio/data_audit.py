"""What is missing from captions and masks, as one line each, with what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from studio.pipelines.data_image import shown
from studio.pipelines.data_pictures import Dataset, Example
from studio.pipelines.data_tokens import Tokens

BLACK, WHITE = 0.005, 0.995  # a mask with a smaller or larger share of white says nothing
NAMED = 5  # names given in one line


@dataclass(frozen=True)
class Captions:
    """The pictures (by name) whose captions lack something; counted: each picture's tokens by tokenizer."""

    dataset: Dataset
    counted: Mapping[str, tuple[Tokens, ...]]

    def named(self, source: str) -> list[str]:
        """The pictures whose caption is from there: metadata, sidecar, empty, missing."""
        return [example.name for example in self.dataset.examples if example.source == source]

    @cached_property
    def without_trigger(self) -> list[str]:
        return [e.name for e in self.dataset.examples if e.words[0] and not says(e.caption, e.words[0])]

    @cached_property
    def without_class_word(self) -> list[str]:
        return [e.name for e in self.dataset.examples if e.words[1] and not says(e.caption, e.words[1])]

    @cached_property
    def repeated(self) -> dict[str, list[str]]:
        """Captions of their own that several pictures have."""
        found = defaultdict(list)
        for example in self.dataset.examples:
            if example.source in ("metadata", "sidecar"):
                found[example.caption].append(example.name)
        return {caption: names for caption, names in found.items() if len(names) > 1}

    @cached_property
    def cut(self) -> list[tuple[str, str, Tokens]]:
        """(picture, tokenizer, tokens) of every caption that is cut off."""
        names = [example.name for example in self.dataset.examples]
        rows = [(name, row) for name, tokens in self.counted.items() for row in zip(names, tokens, strict=True)]
        return [(picture, name, tokens) for name, (picture, tokens) in rows if tokens.cut]

    def doubts(self) -> Iterator[str]:
        """One line for each kind of lack. What holds for every picture alike is taken as meant."""
        total, data = len(self.dataset), self.dataset
        if 0 < len(missing := self.named("missing")) < total:
            yield f"no caption of their own: {listed(missing)}; the prompt stands in: write what is seen in each"
        for names, what, word in (
            (self.without_trigger, "trigger", data.trigger),
            (self.without_class_word, "class word", data.class_word),
        ):
            if 0 < len(names) < total:
                yield f"the {what} {word!r} is not in the caption of {listed(names)}: add it"
        if data.class_word and len(self.without_class_word) == total:
            yield f"no caption has the class word {data.class_word!r}"
        for caption, names in list(self.repeated.items())[:NAMED]:
            yield f"{listed(names)} share the caption {short(caption)!r}: say what differs"
        for name, tokenizer, tokens in self.cut[:NAMED]:
            over = f"{tokens.count} tokens for {tokenizer}, which reads {tokens.limit}"
            yield f"the caption of {shown(name)} has {over}; never seen: {clipped(tokens.cut)!r}: shorten it"
        if len(self.cut) > NAMED:
            yield f"{len(self.cut) - NAMED} more captions are cut off"


@dataclass(frozen=True)
class Masks:
    """How much of each mask is white."""

    dataset: Dataset

    @property
    def masked(self) -> list[Example]:
        return [example for example in self.dataset.examples if example.mask_seen is not None]

    @property
    def coverage(self) -> float:
        """The mean share of white over the masks; 0 without any."""
        shares = [e.mask_seen.light for e in self.masked if e.mask_seen is not None]
        return sum(shares) / len(shares) if shares else 0.0

    def notes(self) -> Iterator[str]:
        """Masks that nobody asked for: a matter of choice."""
        if self.masked and not self.dataset.settings.masks:
            yield f"{plural(len(self.masked), 'mask')} beside the pictures, not used: masks = true uses them"

    def doubts(self) -> Iterator[str]:
        """Masks that say nothing, and pictures without one, where masks are used."""
        used = self.dataset.settings.masks
        for example in self.masked if used else ():
            share = example.mask_seen.light if example.mask_seen else 0.0
            name = self.name(example)
            if share < BLACK:
                yield f"{name} is black all over: nothing of its picture is learned; paint white what to learn"
            elif share > WHITE:
                yield f"{name} is white all over: the same as no mask"
        bare = [example.name for example in self.dataset.examples if example.mask_seen is None]
        if used and self.masked and bare:
            yield f"no mask that serves beside {listed(bare)}: the whole picture is learned"

    def name(self, example: Example) -> str:
        """The mask's path relative to the folder."""
        root = example.path.parents[example.name.count("/")]
        return shown(example.mask.relative_to(root).as_posix()) if example.mask else ""


def says(caption: str, word: str) -> bool:
    """Whether the caption has the word, as a word of its own, in capitals or not."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE) is not None


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """The first names, and how many more there are."""
    first = ", ".join(shown(name) for name in names[:most])
    return f"{first} and {len(names) - most} more" if len(names) > most else first


def short(text: str, most: int = 60) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


def plural(number: int, noun: str) -> str:
    """`1 mask`, `2 masks`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def clipped(text: str) -> str:
    """The first words of a long text."""
    return text if len(text) <= 60 else f"{text[:57]}..."
