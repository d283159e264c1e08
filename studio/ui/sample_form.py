"""What the Sample tab's fields say, as a recipe and its axes, and the other way round. No gradio, no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import Guiding
from studio.ui.grids import MOST, Axis, cells, parse
from studio.ui.recipes import Recipe, made, only_read

PLAIN = ("prompt", "negative", "seed", "sampler", "steps", "guidance_scale", "decor", "decor_strength", "model")
GUIDING = tuple(Guiding.model_fields)
OPTIONAL = [name for name, info in Guiding.model_fields.items() if info.default is None]  # 0 says none, as for steps
AXES = ("x", "y", "z")
FIELDS = ("sources", "strengths", *PLAIN, *GUIDING, "n", *(part for axis in AXES for part in (axis, f"{axis}_values")))
"""The form's fields: those of a recipe, those of its guidance, the number of pictures, and the axes of a grid."""


@dataclass(frozen=True)
class Wish:
    """What is to be drawn. recipes: a picture each; axes: empty where it is no grid."""

    recipe: Recipe
    axes: tuple[Axis, ...]
    recipes: tuple[Recipe, ...]


def wish(values: Mapping[str, Any]) -> Wish:
    """The pictures that filled fields ask for: a grid, or `n` of them whose seeds count up. Raises UsageError."""
    recipe, axes = recipe_of(values), axes_of(values)
    if axes:
        return Wish(recipe, tuple(axes), tuple(cells(recipe, axes)))
    asked = float(1 if values.get("n") in (None, "") else values["n"])
    if not (asked.is_integer() and 1 <= asked <= MOST):
        raise UsageError(f"pictures = {asked:g}: should be a whole number from 1 to {MOST}")
    count = int(asked)
    recipe.check()
    return Wish(recipe, (), tuple(made(recipe, seed=recipe.seed + number) for number in range(count)))


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe of filled fields; an empty field means its default. Raises UsageError."""
    given = {name: values[name] for name in PLAIN if values.get(name) not in (None, "")}
    sources = tuple(str(one).strip() for one in values.get("sources") or ())
    if not sources:
        raise UsageError("no source is chosen: take a run, a checkpoint, an adapter's file, or the base model")
    guidance = {name: values[name] for name in GUIDING if values.get(name) not in (None, "")}
    kind = guidance.get("kind", "cfg")
    read = {"kind", *only_read(Guiding(kind=kind)).reads}  # what another kind reads is hidden, and does not count
    guidance = {name: value for name, value in guidance.items() if name in read and (value or name not in OPTIONAL)}
    return made(sources=sources, strengths=strengths(values.get("strengths"), len(sources)), guidance=guidance, **given)


def strengths(text: Any, count: int) -> tuple[float, ...]:
    """Numbers parted by commas or spaces: one for all sources, or one for each. Raises UsageError."""
    parts = [part for part in re.split(r"[,;\s]+", str(text if text is not None else "").strip()) if part]
    try:
        found = tuple(float(part) for part in parts) or (1.0,)
    except ValueError:
        raise UsageError(f"strengths = {str(text)[:40]!r}: give numbers parted by commas, such as 1, 0.5") from None
    if len(found) not in (1, count):
        sources = "1 source" if count == 1 else f"{count} sources"
        raise UsageError(f"{len(found)} strengths for {sources}: give one for all, or one for each")
    return found * count if len(found) == 1 else found


def axes_of(values: Mapping[str, Any]) -> list[Axis]:
    """The axes that have a setting. Raises UsageError."""
    named = [(values.get(axis), values.get(f"{axis}_values")) for axis in AXES]
    return [parse(str(name), str(text or "")) for name, text in named if name]


def fields(recipe: Recipe, axes: Sequence[Mapping[str, str]] | None = None) -> dict[str, Any]:
    """The fields that say a recipe; those of the axes only where there are some, or none at all."""
    found: dict[str, Any] = {name: getattr(recipe, name) for name in PLAIN}
    found |= {"seed": str(recipe.seed)}  # a browser's numbers end at 2^53
    given = {name: getattr(recipe.guidance, name) for name in GUIDING}
    found |= {name: 0 if value is None else value for name, value in given.items()}
    found |= {"sources": list(recipe.sources), "strengths": ", ".join(f"{one:g}" for one in recipe.each)}
    if axes is not None:
        for place, axis in enumerate(AXES):
            here = axes[place] if place < len(axes) else {"name": "", "values": ""}
            found |= {axis: here["name"], f"{axis}_values": here["values"]}
    return found
