"""The examination of training pictures: every file accounted for, and what is doubtful about those that are used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from studio.data_audit import NAMED, Captions, Masks, plural
from studio.pipelines import buckets
from studio.pipelines.data_examples import Example, is_small
from studio.pipelines.data_image import shown
from studio.pipelines.data_looks import BITS, MOST_BITS, Alike, near_duplicates
from studio.pipelines.data_pictures import Dataset
from studio.pipelines.data_tokens import Tokens, count_all
from studio.pipelines.data_walk import Companion

State = Literal["used", "beside", "left out", "row"]
TURNS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "flipped",
    5: "turned left and flipped",
    6: "turned right",
    7: "turned right and flipped",
    8: "turned left",
}
USUAL = ("RGB", "RGBA", "L", "LA", "P", "PA", "1")  # Pillow's modes that need no mention


@dataclass(frozen=True)
class File:
    """A file of the folder: used as a picture, beside one (caption, mask, metadata) or left out.

    A `row` is no file but a line of a metadata file that cannot be used. name: relative to the folder.
    """

    state: State
    name: str
    what: str


@dataclass(frozen=True)
class Report:
    """What an examination found. counted: each picture's tokens by tokenizer; alike: near-duplicates."""

    dataset: Dataset
    counted: Mapping[str, tuple[Tokens, ...]]
    alike: tuple[Alike, ...]

    @cached_property
    def captions(self) -> Captions:
        return Captions(self.dataset, self.counted)

    @property
    def masks(self) -> Masks:
        return Masks(self.dataset)

    @cached_property
    def files(self) -> tuple[File, ...]:
        """Every file once, by its path, and every metadata row that cannot be used."""
        data = self.dataset
        used = {example.path for example in data.examples}
        rows = [(e.path, File("used", shown(e.name), self.about(n))) for n, e in enumerate(data.examples)]
        rows += [(path, File("beside", self.name(path), self.role(it, used))) for path, it in data.known.items()]
        for rejected in data.rejected:
            state: State = "left out" if os.path.lexists(rejected.path) else "row"
            rows.append((rejected.path, File(state, self.name(rejected.path), rejected.reason)))
        return tuple(file for _, file in sorted(rows, key=lambda row: row[0]))

    def about(self, number: int) -> str:
        """One picture in one line: its size, bucket, crop, what was done to it, its caption and its mask."""
        example = self.dataset.examples[number]
        (width, height), (across, down) = example.size, example.bucket
        parts = [f"{width}x{height} to {across}x{down}, {buckets.kept(example.size, example.bucket):.0%} kept"]
        parts += [*changes(example, self.dataset.settings.background), *self.twins(number)]
        if example.mask_seen is not None:
            parts.append(f"mask {example.mask_seen.light:.0%} white")
        source = {"missing": "the prompt", "empty": "the prompt"}.get(example.source, example.source)
        tokens = (f"{t[number].count} of {t[number].limit} tokens" for t in self.counted.values())
        return "; ".join([*parts, f"caption: {', '.join([source, *tokens])}"])

    def twins(self, number: int) -> Iterator[str]:
        """The picture that this one is a copy of, or looks like."""
        example = self.dataset.examples[number]
        first = self.first[example.content]
        if first is not example:
            yield f"the same as {shown(first.name)}"
        if pair := self.pairs.get(number):
            yield f"looks like {shown(self.dataset.examples[pair.earlier].name)}"

    @cached_property
    def pairs(self) -> dict[int, Alike]:
        """The near-duplicates by the later picture's number."""
        return {pair.later: pair for pair in self.alike}

    @cached_property
    def first(self) -> dict[str, Example]:
        """The first picture with each content."""
        return {example.content: example for example in reversed(self.dataset.examples)}

    def role(self, companion: Companion, used: set[Path]) -> str:
        """What a file beside the pictures is."""
        names = ", ".join(self.name(path) + ("" if path in used else " (left out)") for path in companion.of)
        said = f"{companion.kind} of {names}" if names else companion.kind
        return f"{said}: {companion.note}" if companion.note else said

    def name(self, path: Path) -> str:
        """The path relative to the data folder."""
        folder = self.dataset.settings.folder or Path()
        root = folder.parent if folder.is_file() else folder
        return shown(path.relative_to(root).as_posix() if path.is_relative_to(root) else path)

    def doubts(self) -> list[str]:
        """Warnings beside `dataset.warnings`, one line each, with what to do."""
        return [*self.resemblances(), *self.captions.doubts(), *self.masks.doubts()]

    def notes(self) -> list[str]:
        """What is worth a word and no warning."""
        return list(self.masks.notes())

    def resemblances(self) -> Iterator[str]:
        """Near-duplicates, in one line each up to a few."""
        names = [shown(example.name) for example in self.dataset.examples]
        for pair in self.alike[:NAMED]:
            near = f"{pair.bits} of {BITS} bits differ, {MOST_BITS} count as near"
            yield f"{names[pair.later]} looks like {names[pair.earlier]} ({near}): keep the better one"
        if len(self.alike) > NAMED:
            yield f"{len(self.alike) - NAMED} more pictures look like another of the set"

    def summary(self) -> dict[str, int | float]:
        """The examination in plain numbers. mask_coverage: mean share of white, 0 without masks."""
        states, data, captions = Counter(file.state for file in self.files), self.dataset, self.captions
        return {
            "files": len(self.files) - states["row"],
            "used": states["used"],
            "beside": states["beside"],
            "left_out": states["left out"],
            "rows_left_out": states["row"],
            "warnings": len(data.warnings) + len(self.doubts()),
            "turned": sum(e.seen.orientation != 1 for e in data.examples),
            "transparent": sum(e.seen.transparent > 0 for e in data.examples),
            "duplicates": len(data.examples) - len(self.first),
            "near_duplicates": len(self.alike),
            "buckets": len({e.bucket for e in data.examples}),
            "captions_missing": len(captions.named("missing")),
            "captions_empty": len(captions.named("empty")),
            "captions_without_trigger": len(captions.without_trigger),
            "captions_without_class_word": len(captions.without_class_word),
            "captions_cut": len({name for name, _, _ in captions.cut}),
            "masks": len(self.masks.masked),
            "mask_coverage": round(self.masks.coverage, 4),
        }

    def verdict(self) -> str:
        """Whether the set can be trained on, in one line."""
        numbers = self.summary()
        if not numbers["used"]:
            return f"not trainable: none of {plural(int(numbers['files']), 'file')} is a usable picture"
        left = f", {plural(int(numbers['left_out']), 'file')} left out" if numbers["left_out"] else ""
        doubts = f", {plural(int(numbers['warnings']), 'warning')}" if numbers["warnings"] else ", nothing to object to"
        return f"trainable: {plural(int(numbers['used']), 'picture')} used{left}{doubts}"


def examine(
    dataset: Dataset, tokenizers: Mapping[str, Any] | None = None, limits: Mapping[str, int] | None = None
) -> Report:
    """The report on a data set that was read; no file is opened again.

    tokenizers: the model's, by name; limits: in tokens, where the model reads fewer than its tokenizer gives.
    """
    counted = count_all(tokenizers or {}, [example.caption for example in dataset.examples], limits)
    # copies have a line of their own: only the first of them is compared
    first = {example.content: number for number, example in reversed(list(enumerate(dataset.examples)))}
    numbers = sorted(first.values())
    pairs = near_duplicates([dataset.examples[number].seen.looks for number in numbers])
    return Report(dataset, counted, tuple(Alike(numbers[p.later], numbers[p.earlier], p.bits) for p in pairs))


def changes(example: Example, background: str) -> Iterator[str]:
    """What reading did to the picture."""
    seen = example.seen
    if seen.orientation in TURNS:
        yield f"EXIF: {TURNS[seen.orientation]}"
    if seen.transparent:
        yield f"{seen.transparent:.0%} transparent, put on {background}"
    if seen.mode not in USUAL:
        yield f"{seen.mode}, read as RGB"
    if seen.animated:
        yield "animated: its first frame"
    if is_small(example.size, example.bucket):
        yield "small: it blurs"
    if example.repeats != 1 or example.weight != 1:
        yield f"repeats {example.repeats}, weight {example.weight:g}"
