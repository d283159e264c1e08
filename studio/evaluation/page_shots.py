"""What the page shows of pictures, as records that the template reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.evaluation.page_pictures import Embedded


@dataclass(frozen=True)
class Shot:
    """A picture with what stands below it. marks: its own main scores; missing: what it should show and does not."""

    picture: Embedded | None
    alt: str
    who: str
    label: str
    marks: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    picked: bool = False


@dataclass(frozen=True)
class Prompt:
    """A prompt's pictures: per seed one shot of each source, the base model first."""

    words: str
    base_words: str
    seeds: list[tuple[int, list[Shot]]]


@dataclass(frozen=True)
class Set:
    """A set of prompts with its pictures, and the numbers of each picture."""

    name: str
    size: str
    prompts: list[Prompt]
    missing: str
    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Grid:
    """One prompt and seed, by strength (rows) and checkpoint (columns, the base model first)."""

    words: str
    seed: int
    heads: list[str]
    rows: list[tuple[str, list[Shot | None]]]


@dataclass(frozen=True)
class Twins:
    """A made picture and the training picture nearest to it."""

    made: Shot
    training: Shot
    similarity: str


@dataclass
class Gallery:
    """All pictures of the page, with what is missing in words. hero: rows on top of the page, by name."""

    hero: list[tuple[str, list[Shot]]] = field(default_factory=list)
    sets: list[Set] = field(default_factory=list)
    pairs: list[Twins] = field(default_factory=list)
    pairs_missing: str = ""
    unseen: str = ""
