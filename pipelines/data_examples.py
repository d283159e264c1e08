"""Examples out of checked files, and what a person should know about them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.pipelines import buckets
from studio.pipelines.captioners.words import says, twin
from studio.pipelines.data_check import Checked, check
from studio.pipelines.data_image import shown
from studio.pipelines.data_walk import Rejected
from studio.pipelines.layouts import Found, Listing, Source

PLACES = ("{trigger}", "{class_word}")
UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # halves of surrogate pairs cannot be encoded
INVISIBLE = 0.999  # share of transparency
MUCH_CROPPED = 0.6  # the share of a picture under which its crop is worth a warning
MASK_SHAPE = 0.02  # how far a mask's aspect ratio may be off, relatively


@dataclass(frozen=True)
class Example:
    """One training picture.

    id: sha256 of its bytes and its name; content: of its bytes alone; name: path relative to the folder;
    mask_content: sha256 of the mask file; size: upright (width, height); bucket: (width, height) it trains
    at; words: the trigger and the class word meant for it; source: where its caption is from; seen, mask_seen:
    what decoding showed; said_base: the base caption that its folder brings, '' where its caption's twin is the one.
    """

    id: str
    content: str
    path: Path
    name: str
    caption: str
    mask: Path | None
    mask_content: str
    size: tuple[int, int]
    bucket: tuple[int, int]
    repeats: int
    weight: float
    words: tuple[str, str]
    source: Source
    seen: Checked
    mask_seen: Checked | None
    said_base: str = ""

    @property
    def base(self) -> str:
        """The caption for the model that does not know the subject: the class word stands where the trigger stood."""
        return self.said_base or twin(self.caption, *self.words)


class Reader:
    """Turns checked files into examples, and notes what a person should know about them."""

    def __init__(self, listing: Listing, sizes: Sequence[buckets.Size], prompt: str, words: tuple[str, str]) -> None:
        self.sizes, self.prompt, self.default = sizes, prompt, words
        self.rejected, self.warnings = list(listing.rejected), list(listing.warnings)
        self.words: Counter[tuple[str, str]] = Counter()
        self.contents: dict[str, str] = {}

    def example(self, found: Found, checked: Checked | str) -> Example | None:
        """The example of one file, or None with an entry in `rejected`."""
        if isinstance(checked, str):
            self.rejected.append(Rejected(found.path, checked))
            return None
        words = found.words or self.default
        self.words[words] += 1
        bucket = buckets.nearest(checked.size, self.sizes)
        self.notice(found.name, checked, bucket)
        mask = self.mask(found, checked.size)
        name = found.name.encode("utf-8", "surrogateescape")
        return Example(
            id=hashlib.sha256(checked.content.encode() + name).hexdigest(),
            content=checked.content,
            path=found.path,
            name=found.name,
            caption=fill_in(found.caption or self.prompt, words),
            mask=found.mask if mask else None,
            mask_content=mask.content if mask else "",
            size=checked.size,
            bucket=bucket,
            repeats=found.repeats,
            weight=found.weight,
            words=words,
            source=found.source,
            seen=checked,
            mask_seen=mask,
            said_base=self.base(found, words),
        )

    def base(self, found: Found, words: tuple[str, str]) -> str:
        """The base caption that the folder brings; '' with a warning where it names the subject."""
        base = fill_in(found.base, words)
        if not says(base, words[0]):
            return base
        self.warnings.append(f"{shown(found.name)}: its base caption has the trigger: the caption's twin stands in")
        return ""

    def notice(self, name: str, checked: Checked, bucket: buckets.Size) -> None:
        """Warn of a picture that shows nothing, is small, loses much to the crop, or is there twice."""
        name, side = shown(name), round((bucket[0] * bucket[1]) ** 0.5)
        if checked.transparent >= INVISIBLE:
            self.warnings.append(f"{name} is transparent all over: only the background is learned; leave it out")
        elif checked.even:
            self.warnings.append(f"{name} is one colour all over: there is nothing to learn; leave it out")
        if is_small(checked.size, bucket):
            self.warnings.append(f"{name} is small ({checked.size[0]}x{checked.size[1]}, trained at {side}): it blurs")
        if (share := buckets.kept(checked.size, bucket)) < MUCH_CROPPED:
            self.warnings.append(f"{name}: the crop to {bucket[0]}x{bucket[1]} keeps only {share:.0%} of it")
        if checked.content in self.contents:
            self.warnings.append(f"{name} is the same picture as {self.contents[checked.content]}; both are used")
        self.contents.setdefault(checked.content, name)

    def mask(self, found: Found, size: tuple[int, int]) -> Checked | None:
        """The picture's mask; None where none fits, with the reason in `rejected`."""
        if found.mask is None:
            return None
        checked = check(found.mask, "black")
        if isinstance(checked, str):
            reason = checked
        elif abs(checked.size[0] * size[1] / (checked.size[1] * size[0]) - 1) > MASK_SHAPE:
            reason = f"its shape {checked.size} is not the picture's {size}"
        else:
            return checked
        if found.mask not in {r.path for r in self.rejected}:  # two pictures may share a mask
            self.rejected.append(Rejected(found.mask, f"a mask that does not serve: {reason}"))
        return None


def is_small(size: buckets.Size, bucket: buckets.Size) -> bool:
    """Whether a picture is so small that it blurs at the bucket's size."""
    return min(size) < (bucket[0] * bucket[1]) ** 0.5 / 2


def fill_in(text: str, words: tuple[str, str]) -> str:
    """The caption with trigger and class word in their places, on one line, without control characters."""
    for place, word in zip(PLACES, words, strict=True):
        text = text.replace(place, word)
    return " ".join(UNSPEAKABLE.sub(" ", text).split())
