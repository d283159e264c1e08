"""X/Y/Z grids: one recipe drawn along two or three of its settings, as labelled sheets."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from PIL import Image

from studio.mistakes import nearest
from studio.pipelines.drawing import SAMPLERS
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import KINDS, Guiding
from studio.ui.recipes import AXES, Recipe, made, only_read

MOST = 100  # pictures of one grid
LONGEST = 60  # characters of a label
NUMBER = r"(-?\d+(?:\.\d+)?)"
RANGE = re.compile(
    rf"{NUMBER}\s*-\s*{NUMBER}(?:\s*\(\s*\+?{NUMBER}\s*\)|\s*\[\s*(\d+)\s*\])?"
)  # 1-5, 1-5 (+2), 0-1 [5]
WHOLE = ("seed", "steps")
NUMBERS = (*WHOLE, "strength", "guidance_scale", "decor_strength")
GUIDED = tuple(f"guidance.{name}" for name in Guiding.model_fields)
TEXTS = ("source", "sampler", "words", "prompt", "negative", "decor", "model")
NAMES = (*TEXTS, *NUMBERS, *GUIDED)
"""What an axis can run along. source: instead of all sources; words: the first value, as it stands in the prompt, is
replaced by each; strength: of all sources; "strength.2": of the second alone."""


@dataclass(frozen=True)
class Axis:
    """A setting and its values, as words that are read by `parse`."""

    name: str
    values: tuple[str, ...]

    @property
    def text(self) -> dict[str, str]:
        """As a sheet's metadata, and the page's fields, have it."""
        quoted = ('"{}"'.format(one.replace('"', '""')) if {",", '"'} & {*one} else one for one in self.values)
        return {"name": self.name, "values": ", ".join(quoted)}

    def labels(self) -> dict[str, str]:
        """What stands beside the pictures of each value; every one is another."""
        found: dict[str, str] = {}
        for number, value in enumerate(self.values, 1):
            plain = self.name in ("prompt", "words")
            said = value if plain else f"{self.name.removeprefix('guidance.')} {value or '(none)'}"
            said = said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"
            found[value] = f"{said} ({number})" if said in found.values() else said
        return found


def parse(name: str, text: str) -> Axis:
    """An axis of a setting's name and its values, parted by commas.

    Numbers also as ranges: 1-5, 1-5 (+2), 0-1 [5]; texts with commas in quotes. Raises UsageError.
    """
    name = name.strip()
    if name not in NAMES and not re.fullmatch(r"strength\.[1-8]", name):
        hint = nearest(name, NAMES)
        meant = f"did you mean '{hint}'?" if hint else f"there are {', '.join(NAMES)}"
        raise UsageError(f"no grid can run along {name[:40]!a}; {meant}")
    try:
        rows = list(csv.reader([" ".join(text.split())], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UsageError(f'{name}: {error}; put a text with commas in quotes, as in "a cat, asleep"') from None
    parts = [part.strip() for row in rows for part in row]
    spread = [value for part in parts for value in (numbers(name, part) if numeric(name) else [part])]
    if not text.strip() or len(spread) < 2:
        raise UsageError(f"{name}: an axis needs two values or more, parted by commas")
    if twice := [value for number, value in enumerate(spread) if value in spread[:number]]:
        raise UsageError(f"{name}: {twice[0]!r} stands there twice; leave one out")
    return Axis(name, tuple(spread))


def numeric(name: str) -> bool:
    """Whether an axis has numbers."""
    return name in NUMBERS or name.startswith("strength.") or (name in GUIDED and name != "guidance.kind")


def numbers(name: str, part: str) -> list[str]:
    """The numbers of one part: one, or those of a range. Raises UsageError for what is neither."""
    if not (match := RANGE.fullmatch(part)):
        try:
            return [shortest(float(part))] if name not in WHOLE else [str(int(part))]
        except (ValueError, OverflowError):
            kind = "whole number" if name in WHOLE else "number"
            example = "1-5 or 10-50 (+20)" if name in WHOLE else "0-1 [5] or 0.5-1.5 (+0.25)"
            raise UsageError(f"{name}: {part[:40]!r} is no {kind} and no range such as {example}") from None
    low, high = float(match[1]), float(match[2])
    count = int(match[4]) if match[4] else 0
    step = float(match[3] or 1) if not count else (high - low) / max(1, count - 1)
    count = count or int(abs(high - low) / abs(step) + 1e-9) + 1 if step else 1
    if count > MOST:
        raise UsageError(f"{name}: {part} are {count} values; a grid has at most {MOST} pictures")
    step = abs(step) if high >= low else -abs(step)
    values = [low + number * step for number in range(count)]
    return list(dict.fromkeys(str(round(value)) if name in WHOLE else shortest(value) for value in values))


def shortest(value: float) -> str:
    """A number without what rounding added."""
    return f"{round(value, 6):g}"


def put(recipe: Recipe, axis: Axis, value: str) -> Recipe:
    """The recipe with one value of an axis. Raises UsageError for one that does not fit."""
    name = axis.name
    if name == "source":
        return made(recipe, sources=(value,), strengths=recipe.strengths[:1])
    if name == "words":
        if axis.values[0] not in recipe.prompt:
            raise UsageError(f"words: the prompt does not say {axis.values[0]!r}, the axis's first value")
        return made(recipe, prompt=recipe.prompt.replace(axis.values[0], value))
    if name == "strength":
        return made(recipe, strengths=tuple(float(value) for _ in recipe.sources))
    if name.startswith("strength."):
        return one_strength(recipe, int(name.rpartition(".")[2]), float(value))
    if name == "guidance.kind":
        guidance = recipe.guidance.model_dump() | {"kind": choice(name, value, KINDS)}
        return made(recipe, guidance=only_read(Guiding.model_validate(guidance)))
    if name in GUIDED:
        return made(recipe, guidance={**recipe.guidance.model_dump(), name.partition(".")[2]: float(value)})
    if name == "sampler":
        choice(name, value, SAMPLERS)
    return made(recipe, **{name: float(value) if name in NUMBERS and name not in WHOLE else value})


def choice(name: str, value: str, known: Sequence[str]) -> str:
    """A value that is one of those known. Raises UsageError for another."""
    if value not in known:
        hint = nearest(value, known)
        meant = f"did you mean '{hint}'?" if hint else f"there are {', '.join(known)}"
        raise UsageError(f"{name} = {value[:40]!r}: no such {name.removeprefix('guidance.')}; {meant}")
    return value


def one_strength(recipe: Recipe, place: int, value: float) -> Recipe:
    """The recipe with another strength of one source, counted from 1. Raises UsageError where it has not so many."""
    if place > len(recipe.sources):
        raise UsageError(f"strength.{place}: there are {len(recipe.sources)} sources; add one, or take 'strength'")
    each = list(recipe.each)
    each[place - 1] = value
    return made(recipe, strengths=tuple(each))


ORDER = ("source", "guidance.kind")  # what other settings are put on top of: they reset some


def cells(recipe: Recipe, axes: Sequence[Axis]) -> list[Recipe]:
    """A recipe for each cell, the last axis the fastest; every one was checked. Raises UsageError.

    axes: up to three, X, Y, Z; no axes: the recipe itself.
    """
    if len(axes) > 3:
        raise UsageError(f"a grid of {len(axes)} settings: it has three axes at most")
    names = [axis.name for axis in axes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two axes run along {twice[0]}: choose another setting for one of them")
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MOST:
        sizes = " x ".join(str(len(axis.values)) for axis in axes)
        raise UsageError(f"{sizes} = {count} pictures: a grid has at most {MOST}; take fewer values")
    found = []
    for values in product(*(axis.values for axis in axes)):
        one = recipe
        for axis, value in sorted(zip(axes, values, strict=True), key=lambda pair: pair[0].name not in ORDER):
            one = put(one, axis, value)
        one.check()
        found.append(one)
    return found


def sheets(axes: Sequence[Axis], drawn: Sequence[Image.Image | None]) -> dict[str, Image.Image]:
    """Labelled sheets by the Z axis's label ("" without one): X across, Y down. drawn: in the order of `cells`.

    None: a picture that was not drawn, left blank.
    """
    from studio import pictures

    x, y, z = [*axes, None, None, None][:3]
    across, down, deep = (axis.labels() if axis else {"": ""} for axis in (x, y, z))
    known = next((one for one in drawn if one is not None), None)
    if known is None:
        return {}
    blank = Image.new("RGB", known.size, "lightgray")
    placed = dict(zip(product(across, down, deep), drawn, strict=True))
    found = {}
    for depth, title in deep.items():
        columns = {head: [placed[column, row, depth] or blank for row in down] for column, head in across.items()}
        found[title] = pictures.grid(columns, list(down.values()))
    return found


def about(recipe: Recipe, axes: Sequence[Axis], depth: str = "") -> Mapping[str, Any]:
    """The text chunks of a sheet: the recipe it was drawn around, and its axes, so that dropping it restores both."""
    said = {AXES: json.dumps([axis.text for axis in axes]), **({"sheet": depth} if depth else {})}
    return {**recipe.about(), **said}
