"""The recipe in a dropped picture: ours, that of `studio sample` and previews, and the "parameters" of other tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import TypeAdapter, ValidationError

from studio.mistakes import brief, message, nearest
from studio.pipelines.errors import DataError
from studio.ui.recipes import AXES, KEY, Recipe, made

TEXT_MOST = 2**18  # characters of metadata that are read
PAIR = re.compile(r'\s*([A-Za-z][\w /-]*):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')  # "Steps: 20, Sampler: Euler, ..."
THEIRS = {"Steps": "steps", "CFG scale": "guidance_scale", "Seed": "seed"}  # in other tools' "parameters"
DRAWN = re.compile(r"(\w+), (\d+) steps?, guidance ([\d.]+)")  # what `Drawing.said` writes


@dataclass
class Found:
    """Settings that a picture brought, those of a sheet's axes, and a line for each thing that was not taken."""

    values: dict[str, Any] = field(default_factory=dict)
    axes: list[dict[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def over(self, recipe: Recipe) -> Recipe:
        """The picture's recipe; where it says nothing, what `recipe` says. Raises UsageError."""
        values = dict(self.values)
        if "sources" in values and "strengths" not in values:
            values["strengths"] = (1.0,)
        elif "strengths" in values and "sources" not in values and len(values["strengths"]) != 1:
            del values["strengths"]
        return made(recipe, **values)


def read(path: Path) -> Found:
    """What a picture's metadata says of how it was drawn. Raises DataError for no picture, or one without a recipe."""
    said = texts(path)
    if KEY in said:
        found = ours(said)
    elif "parameters" in said:
        found = theirs(said["parameters"])
    elif "prompt" in said and "seed" in said:
        found = plain(said)
    else:
        raise DataError(
            f"{path.name}: carries no recipe; drop a PNG as the studio wrote it (chats and editors often remove it)"
        )
    return found


def texts(path: Path) -> dict[str, str]:
    """A picture's text chunks. Raises DataError for what is no picture, or has more text than a recipe can have."""
    try:
        with Image.open(path) as picture:
            if picture.format not in ("PNG", "WEBP", "JPEG"):
                raise DataError(f"{path.name}: a {picture.format} file; a recipe lies in a PNG")
            found = {str(key): value for key, value in picture.info.items() if isinstance(value, str)}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name}: cannot be read as a picture ({type(error).__name__}); drop a PNG") from None
    if sum(map(len, found.values())) > TEXT_MOST:
        raise DataError(f"{path.name}: has too much text for a recipe; drop a PNG that the studio wrote")
    return found


def ours(said: Mapping[str, str]) -> Found:
    """A recipe of our own. Unknown settings, and values out of bounds, are told and left out."""
    found = Found()
    table = as_json(said[KEY], dict, KEY, found) or {}
    take(found, {**Recipe().model_dump(mode="json"), **table})
    axes = as_json(said.get(AXES, "[]"), list, AXES, found) or []
    for axis in axes[:3]:
        if isinstance(axis, dict) and isinstance(axis.get("name"), str) and isinstance(axis.get("values"), str):
            found.axes.append({"name": axis["name"], "values": axis["values"]})
        else:
            found.remarks.append(f"{AXES}: {brief(axis, 60)} is no axis; it was left out")
    return found


def as_json(text: str, kind: type, where: str, found: Found) -> Any:
    """The JSON of a kind that a text is; None, with a remark, for any other."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        found.remarks.append(f"{where}: is damaged; it was left out")
        return None
    return value


def take(found: Found, table: Mapping[str, Any]) -> None:
    """Into `found` every known setting with a value within its bounds; a remark for every other."""
    for name, value in table.items():
        if name not in Recipe.model_fields:
            hint = nearest(str(name), list(Recipe.model_fields))
            meant = f"; did a newer version write it, or is it '{hint}'?" if hint else "; did a newer version write it?"
            found.remarks.append(f"{str(name)[:40]!a}: no setting of this version{meant} It was left out")
            continue
        try:
            found.values[name] = checked(name, value)
        except ValidationError as error:
            reason = message(error.errors(include_url=False)[0])
            found.remarks.append(f"{name} = {brief(value, 60)}: {reason}; it was left out")


def checked(name: str, value: Any) -> Any:
    """One setting's value within its bounds. Raises ValidationError."""
    info = Recipe.model_fields[name]
    adapter: TypeAdapter[Any] = TypeAdapter(info.rebuild_annotation())
    return adapter.validate_python(tuple(value) if isinstance(value, list) else value)


def plain(said: Mapping[str, str]) -> Found:
    """What `studio sample`, previews and grids write: words for people, read back."""
    found, table = Found(), dict[str, Any]()
    prompts = said["prompt"].split(" | ")
    table |= {"prompt": prompts[0], "seed": said["seed"]}
    if len(prompts) > 1:
        found.remarks.append(f"a grid of {len(prompts)} prompts: the first one is taken")
    if "sources" in said:
        table["sources"] = said["sources"].split(", ")
    if "strength" in said:
        table["strengths"] = said["strength"].split(", ")
        if len(table.get("sources", ())) > 1 and len(table["strengths"]) == 1:
            found.remarks.append(f"a grid of {len(table['sources'])} sources: the first one is taken")
            table["sources"] = table["sources"][:1]
    table |= {
        key: said[key] for key in ("negative", "steps", "guidance_scale", "decor", "decor_strength") if key in said
    }
    if match := DRAWN.fullmatch(said.get("sampler", "")):
        table |= dict(zip(("sampler", "steps", "guidance_scale"), match.groups(), strict=True))
    elif "sampler" in said:
        table["sampler"] = said["sampler"]
    if "drawn" in said:
        found.remarks.append(
            f"each column was drawn in its own way ({said['drawn'][:200]}): sampler and steps are yours"
        )
    if "guidance" in said:
        kind, *numbers = said["guidance"].split()
        known = dict(pair.partition("=")[::2] for pair in numbers)
        table["guidance"] = {"kind": kind, **known}
    take(found, table)
    return found


def theirs(text: str) -> Found:
    """The "parameters" of web UIs: prompt, negative prompt, then `Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1`."""
    found = Found(
        remarks=["drawn by another tool: prompt, seed, steps and guidance scale were taken, the model was not"]
    )
    *head, last = text.strip().splitlines() or [""]
    pairs = {key.strip(): value.strip().strip('"') for key, value in PAIR.findall(last)}
    if "Steps" not in pairs:  # there is no such line
        head, pairs = [*head, last], {}
    prompt, _, negative = "\n".join(head).partition("Negative prompt:")
    table: dict[str, Any] = {"prompt": " ".join(prompt.split()), "negative": " ".join(negative.split())}
    take(found, table | {ours: pairs[name] for name, ours in THEIRS.items() if name in pairs})
    left = [f"{name} = {value}" for name, value in pairs.items() if name in ("Sampler", "Model", "Schedule type")]
    if left:
        found.remarks.append(f"not taken: {', '.join(left)[:200]}; choose them here")
    if "<lora:" in prompt:
        found.remarks.append("the prompt names adapters as <lora:NAME:STRENGTH>: add them under sources")
    return found
