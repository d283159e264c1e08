"""What an evaluation found: sources, pictures, scores, and which pictures made which number. JSON and back."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studio.pipelines.protocols import About

VERSION = 1


@dataclass(frozen=True)
class Source:
    """Who made pictures. label: its name in tables ("base" for the base model); file: the adapter, "" for none.

    strength: of the adapter; step: of the checkpoint, 0 for a finished adapter; trigger, class_word: its words.
    """

    label: str
    model: str
    file: str = ""
    strength: float = 1.0
    step: int = 0
    trigger: str = ""
    class_word: str = ""


@dataclass(frozen=True)
class Made:
    """One picture. file: relative to the evaluation's folder; set: the prompt set's name; template: the prompt with
    `{subject}` in it; prompt: as the model was asked; plain: the prompt without trigger, for text scorers.
    """

    file: str
    source: str
    set: str
    template: str
    prompt: str
    plain: str
    seed: int


@dataclass(frozen=True)
class Score:
    """One number of one source over one set of prompts ("" for all), with a 95 % bootstrap interval.

    pictures: indexes into `Evaluation.pictures`; values: theirs, in that order (NaN where one could not be scored);
    base: the base model's value; change, change_low, change_high: paired difference to it; None without a base.
    """

    about: About
    source: str
    set: str
    value: float
    low: float
    high: float
    n: int
    pictures: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    base: float | None = None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None


@dataclass(frozen=True)
class Pair:
    """A picture and the training picture it is nearest to. training: its path as the data set names it."""

    picture: int
    training: str
    similarity: float


@dataclass
class Evaluation:
    """Everything one evaluation found. notes: sentences a person must read (a missing encoder, a flag);
    settings: steps, guidance, sampler, seeds, prompt hash, versions; config: the run's config, flat, if it is a run.
    """

    sources: list[Source] = field(default_factory=list)
    pictures: list[Made] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def score(self, name: str, source: str, of: str = "") -> Score | None:
        """The score of a name for a source and prompt set."""
        found = (s for s in self.scores if (s.about.name, s.source, s.set) == (name, source, of))
        return next(found, None)

    def to_json(self) -> str:
        """As JSON text; NaN, and an end of bounds that is none, as null."""
        return json.dumps(tidy(asdict(self)), indent=1) + "\n"

    @classmethod
    def read(cls, file: Path) -> Evaluation:
        """From the file that `to_json` was written to. Raises ValueError, KeyError or TypeError for another's."""
        values = json.loads(file.read_text("utf-8"))
        scores = [restored(row) for row in values.pop("scores")]
        lists = {"sources": Source, "pictures": Made, "pairs": Pair}
        rows: dict[str, Any] = {name: [kind(**row) for row in values.pop(name)] for name, kind in lists.items()}
        return cls(**values, **rows, scores=scores)


def restored(row: dict[str, Any]) -> Score:
    """A score as it was before it was JSON: null is NaN, but for a base that there was none of, and its change."""
    about = {**row["about"], "needs": tuple(row["about"]["needs"]), "bounds": bounds(row["about"].get("bounds"))}
    plain = {key: number(row[key]) for key in ("value", "low", "high")}
    paired = ("change", "change_low", "change_high") if row.get("base") is not None else ()
    lists = {"pictures": tuple(row["pictures"]), "values": tuple(map(number, row["values"]))}
    return Score(**{**row, **plain, **{key: number(row[key]) for key in paired}, **lists, "about": About(**about)})


def bounds(ends: list[float | None] | None) -> tuple[float, float] | None:
    """Bounds out of JSON, where an infinite end is null."""
    if ends is None:
        return None
    low, high = ends
    return (-math.inf if low is None else low, math.inf if high is None else high)


def number(value: float | None) -> float:
    """null is NaN."""
    return float("nan") if value is None else value


def tidy(value: Any) -> Any:
    """Values as JSON may hold them."""
    if isinstance(value, dict):
        return {key: tidy(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
