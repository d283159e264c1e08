"""Pictures drawn on the page, on disk: RUNS/.pictures, each with its recipe, newest first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.pipelines.errors import StudioError
from studio.ui import grids
from studio.ui.drawable import portable
from studio.ui.drawing_room import Drawn
from studio.ui.drawn_files import NAME, free, newest, stamp
from studio.ui.grids import Axis
from studio.ui.place import Place
from studio.ui.recipe_reading import texts
from studio.ui.recipes import AXES, KEY, Recipe


@dataclass(frozen=True)
class Kept:
    """A picture on disk, and what stands under it."""

    path: Path
    caption: str


def keep(drawn: Drawn, place: Place, moment: str = "", number: int = 0) -> Kept:
    """The picture, written. moment: when its drawing began; number: its place there. Raises OSError."""
    from studio import pictures

    recipe = portable(drawn.recipe, place)
    path = free(place.runs / NAME, f"{moment or stamp()}-{number:03}-s{recipe.seed}")
    return Kept(pictures.save(drawn.image, path, **recipe.about()), caption(recipe))


def keep_sheets(
    recipe: Recipe, axes: Sequence[Axis], drawn: Sequence[Drawn | None], place: Place, moment: str = ""
) -> Iterator[Kept]:
    """The sheets of a grid, written, each with the recipe it was drawn around and its axes. Raises OSError."""
    from studio import pictures

    told = portable(recipe, place)
    for title, sheet in grids.sheets(axes, [one.image if one else None for one in drawn]).items():
        path = free(place.runs / NAME, f"{moment or stamp()}-grid")
        pictures.save(sheet, path, **grids.about(told, axes, title))
        yield Kept(path, heading([axis.name for axis in axes], title))


def caption(recipe: Recipe) -> str:
    """What stands under a picture: from which seed, who drew it, how. The seed first: on a phone the end is cut off."""
    who = " + ".join(
        name if strength == 1 else f"{name} at {strength:g}"
        for name, strength in zip(recipe.sources, recipe.each, strict=True)
    )
    scale = f"scale {recipe.guidance_scale:g}" if recipe.guidance_scale else ""
    steps = f"{recipe.steps} steps" if recipe.steps else ""
    guided = "" if recipe.guidance.plain else recipe.guidance.said()
    return f"seed {recipe.seed}: {', '.join(filter(None, [who, scale, steps, recipe.sampler, guided]))}"


def heading(names: Sequence[str], title: str) -> str:
    """What stands under a sheet: along what it runs, and where on the Z axis it is."""
    return f"grid: {' x '.join(names).replace('_', ' ')}{f', {title}' if title else ''}"


def recent(place: Place, most: int = 40) -> list[Kept]:
    """The newest pictures. Those that cannot be read are left out: somebody else's files."""
    found = []
    for path in newest(place.runs / NAME)[:most]:
        try:
            said = texts(path)
            recipe = Recipe.model_validate_json(said.get(KEY, ""))
            names = [axis["name"] for axis in json.loads(said.get(AXES, "[]"))]
            found.append(Kept(path, heading(names, said.get("sheet", "")) if names else caption(recipe)))
        except (StudioError, ValueError, OSError, KeyError, TypeError):
            continue
    return found
