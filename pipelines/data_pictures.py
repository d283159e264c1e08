"""The settings of training pictures, and the data set they name: every file used, or listed with a reason."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from PIL import ImageColor
from pydantic import Field, field_validator

from studio.pipelines import buckets, layouts
from studio.pipelines.confine import permitted
from studio.pipelines.data_check import check_all
from studio.pipelines.data_examples import PLACES, Example, Reader
from studio.pipelines.data_image import SUFFIXES, one_line, shown
from studio.pipelines.data_walk import Companion, Rejected
from studio.pipelines.data_zoom import HEADS
from studio.pipelines.errors import DataError
from studio.pipelines.layouts import Listing
from studio.pipelines.settings import Part

FROM_PROMPT, CLASS = ("missing", "empty"), "{class_word}"  # sources of captions, and a place in the prompt


class Sides(Protocol):
    """What the pictures must know of a model: its own side, and what sides are multiples of, in pixels."""

    @property
    def pixels(self) -> int: ...
    @property
    def multiple(self) -> int: ...


@dataclass(frozen=True)
class Dataset:
    """The pictures of one folder. Each file is in `examples`, `known` (captions, masks) or `rejected`.

    layout: the layouts recognised; trigger, class_word: the words of most captions (kohya folders bring
    theirs).
    """

    examples: tuple[Example, ...]
    known: Mapping[Path, Companion]
    rejected: tuple[Rejected, ...]
    warnings: tuple[str, ...]
    layout: str
    settings: Pictures
    trigger: str
    class_word: str

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def captions(self) -> tuple[str, ...]:
        """Every text that training can ask for, once, in order."""
        dropped = ("",) if self.settings.caption_dropout else ()
        heads = HEADS if self.settings.zooms else ("",)
        return tuple(dict.fromkeys((*(head + e.caption for e in self.examples for head in heads), *dropped)))

    @property
    def bases(self) -> dict[str, str]:
        """The base caption of each example, by id."""
        return {example.id: example.base for example in self.examples}

    def fingerprint(self) -> str:
        """sha256 over pictures, masks, captions and settings; the same wherever the folder lies."""
        unused = {"folder"} if self.settings.zooms else {"folder", "zooms"}  # older runs know of no zooms
        settings = self.settings.model_dump(mode="json", exclude=unused)
        lines = sorted(
            [e.content, e.mask_content, e.caption, e.bucket, e.repeats, e.weight, *filter(None, [e.said_base])]
            for e in self.examples
        )
        return hashlib.sha256(json.dumps([settings, lines], sort_keys=True).encode()).hexdigest()


class Pictures(Part):
    """What a run learns from."""

    folder: Annotated[Path | None, Field(description="Folder of pictures, or one picture")] = None
    resolution: Annotated[
        int, Field(ge=0, le=8192, description="Side of the training pictures in pixels; 0: the model's")
    ] = 0
    buckets: Annotated[bool, Field(description="Keep aspect ratios, at about resolution^2 pixels; off: square")] = True
    crop: Annotated[Literal["center", "random"], Field(description="Which part of a picture its crop keeps")] = "center"
    flip: Annotated[bool, Field(description="Mirror every other picture at random")] = False
    prompt: Annotated[
        str, Field(description="Caption of pictures that bring none; {trigger}, {class_word} are filled")
    ] = "a photo of {trigger} {class_word}"
    trigger: Annotated[str, Field(description="The word that calls the subject; filled into captions too")] = "sks"
    class_word: Annotated[str, Field(description="What the subject is, in one noun, such as dog")] = ""
    caption_dropout: Annotated[float, Field(ge=0, le=1, description="Share of captions replaced by nothing")] = 0.0
    masks: Annotated[bool, Field(description="Train only where the mask files are white")] = False
    zooms: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="Sizes and places in its frame at which each picture is shown, as Custom Diffusion does, with "
            "masks and captions to match (16 are many); 0: it fills its frame",
        ),
    ] = 0
    background: Annotated[str, Field(description="Colour behind transparent pictures, by name or #rrggbb")] = "white"

    @field_validator("background")
    @classmethod
    def known_colour(cls, value: str) -> str:
        """ValueError for a colour Pillow does not know."""
        ImageColor.getrgb(value)
        return value

    @field_validator("prompt")
    @classmethod
    def known_places(cls, value: str) -> str:
        """ValueError for a place in braces that nothing fills."""
        if unknown := [place for place in re.findall(r"\{\w*\}", value) if place not in PLACES]:
            raise ValueError(f"prompt knows {' and '.join(PLACES)}, not {unknown[0]}")
        return value

    def read(self, model: Sides) -> Dataset:
        """Look at every file of the folder and decode every picture once.

        DataError: the folder is missing, empty or without a usable picture; UsageError: the resolution is
        wrong.
        """
        dataset = self.look(model)
        if not dataset.examples:
            raise DataError(nothing_usable(self.folder, dataset.rejected))
        return dataset

    def look(self, model: Sides) -> Dataset:
        """As `read`, but a data set without a usable picture is returned, with the reasons."""
        sizes = buckets.sizes(self.resolution or model.pixels, model.multiple, self.buckets)
        listing = self.listing()
        checks = check_all([found.path for found in listing.found], self.background)
        reader = Reader(listing, sizes, self.prompt, (self.trigger, self.class_word))
        examples = tuple(e for f, c in zip(listing.found, checks, strict=True) if (e := reader.example(f, c)))
        rejected = tuple(sorted(reader.rejected, key=lambda r: (r.path, r.reason)))
        refused = {r.path for r in rejected}
        known = {path: what for path, what in listing.known.items() if path not in refused}
        notes = tuple(dict.fromkeys((*reader.warnings, *self.notes(examples, set(reader.words)))))
        trigger, class_word = reader.words.most_common(1)[0][0] if examples else (self.trigger, self.class_word)
        return Dataset(examples, known, rejected, notes, listing.layout, self, trigger, class_word)

    def listing(self) -> Listing:
        """The folder's files, unopened. DataError: it is missing, empty or cannot be read."""
        if self.folder is None:
            raise DataError("no pictures given: name a folder of pictures with --data, or as data.folder")
        permitted(self.folder, "data.folder", DataError)
        try:
            if self.folder.is_file():
                return layouts.scan_file(self.folder)
            if not self.folder.exists():
                raise DataError(f"no such folder: {shown(self.folder)}; name a folder of pictures")
            listing = layouts.scan(self.folder)
        except OSError as error:
            raise DataError(f"{shown(self.folder)} cannot be read: {error.strerror or one_line(error)}") from error
        if not (listing.found or listing.rejected or listing.known):
            kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
            raise DataError(f"{shown(self.folder)} is an empty folder: put pictures into it ({kinds})")
        return listing

    def notes(self, examples: Sequence[Example], words: set[tuple[str, str]]) -> Iterator[str]:
        """Warnings about the set as a whole; words: the pairs of trigger and class word in its captions."""
        name = self.folder.resolve().name if self.folder else ""
        if layouts.KOHYA.fullmatch(name) and words == {(self.trigger, self.class_word)}:
            yield f"for the repeats and words in {shown(name)!r}, give the folder that holds it"
        if self.masks and not any(example.mask for example in examples):
            yield "masks are asked for, but no picture has one"
        if self.zooms and any(example.said_base for example in examples):
            yield "zooms change captions: the caption's twin stands in for the base captions that the folder brings"
        filled, triggers = any(place in self.prompt for place in PLACES), {trigger for trigger, _ in words if trigger}
        asked = [example.words for example in examples if example.source in FROM_PROMPT]
        if filled and not all(any(pair) for pair in asked):
            yield "no trigger and no class word: nothing in the prompt calls the subject; give one (--class-word dog)"
        elif triggers and not any(trigger in example.caption for example in examples for trigger in triggers):
            yield f"no caption has the trigger {self.trigger!r}"
        elif CLASS in self.prompt and not all(word for _, word in asked):
            yield "no class word: captions call the subject by its trigger alone; say what it is (--class-word dog)"


def nothing_usable(folder: Path | None, rejected: Sequence[Rejected]) -> str:
    """What was found instead of pictures, on one line: an example of each of the commonest reasons."""
    first = {r.reason: shown(r.path.name) for r in reversed(rejected)}
    counts = Counter(r.reason for r in rejected).most_common(3)
    reasons = "; ".join(f"{first[reason]}{' and others' if n > 1 else ''}: {reason}" for reason, n in counts)
    return f"no usable picture in {shown(folder)} ({len(rejected)} rejected): {reasons}"
