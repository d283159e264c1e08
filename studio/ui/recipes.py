"""A picture's recipe: what it was drawn with, as settings and as a PNG's metadata, so that a picture restores them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator
from typing_extensions import Self

from studio.mistakes import message
from studio.pipelines import drawing
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import Guiding
from studio.pipelines.settings import Part
from studio.sample_how import How

KEY = "studio.recipe"  # in a PNG's text: the recipe as JSON
AXES = "studio.axes"  # in a sheet's: the axes it was drawn along, as JSON
BASE = "base"  # the source without an adapter
Weight = Annotated[float, Field(ge=-10, le=10)]


def known_sampler(name: str) -> str:
    """A sampler's name, or "". Raises ValueError for another word."""
    if name and name not in drawing.SAMPLERS:
        raise ValueError(f"no such sampler; there are {', '.join(drawing.SAMPLERS)}")
    return name


class Recipe(Part):
    """Everything that decides one picture. Several sources are in the model together, each at its strength."""

    sources: Annotated[
        tuple[str, ...], Field(min_length=1, max_length=8, description="Runs, checkpoints (RUN@STEP) or adapter files")
    ] = (BASE,)
    strengths: Annotated[tuple[Weight, ...], Field(description="Strength of each source, 1: as it was trained")] = (
        1.0,
    )
    prompt: Annotated[
        str, Field(max_length=2000, description="What to draw; {trigger} and {class_word} are filled")
    ] = ""
    negative: Annotated[
        str, Field(max_length=2000, description="What not to draw; not heard at guidance scale 1 (few steps)")
    ] = ""
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Seed of the noise; the next pictures count up")] = 0
    sampler: Annotated[
        str,
        AfterValidator(known_sampler),
        Field(description="Empty: what the adapter is made for, else the model's own"),
    ] = ""
    steps: Annotated[int, Field(ge=0, le=drawing.MOST, description="Sampler steps, 0: what the adapter asks for")] = 0
    guidance_scale: Annotated[
        float, Field(ge=0, le=100, description="Classifier-free guidance scale, 0: what the adapter asks for")
    ] = 0.0
    guidance: Annotated[Guiding, Field(description="How prompt, adapter and base model steer the sampler")] = Guiding()
    decor: Annotated[str, Field(max_length=2000, description="Words, parted by commas, removed from the prompt")] = ""
    decor_strength: Annotated[float, Field(ge=0, le=1, description="How much of them is removed")] = 1.0
    model: Annotated[str, Field(description="Base model; empty: the one the adapter was trained on")] = ""

    @model_validator(mode="after")
    def _a_strength_for_each(self) -> Self:
        if len(self.strengths) not in (1, len(self.sources)):
            sources = "1 source" if len(self.sources) == 1 else f"{len(self.sources)} sources"
            raise ValueError(f"{len(self.strengths)} strengths for {sources}: give one for each")
        return self

    @property
    def each(self) -> tuple[float, ...]:
        """A strength for every source."""
        return self.strengths if len(self.strengths) == len(self.sources) else self.strengths * len(self.sources)

    def how(self) -> How:
        """How it is drawn, as `studio sample` says it."""
        same = ("sampler", "steps", "guidance_scale", "guidance", "decor", "decor_strength", "negative")
        strength = self.each if len(self.sources) > 1 else self.each[0]
        return How(strength=strength, **{name: getattr(self, name) for name in same})

    def check(self) -> None:
        """Raises UsageError for what can be refused before anything is loaded."""
        if not self.prompt.strip():
            raise UsageError("there is no prompt: write what to draw, such as 'a photo of {trigger} {class_word}'")
        self.how().check(self.sources)

    def about(self) -> dict[str, object]:
        """The text chunks of its PNG: the recipe as JSON, and the same in words."""
        said: dict[str, object] = {"prompt": self.prompt, "seed": self.seed, "sources": ", ".join(self.sources)}
        same = ("sampler", "steps", "guidance_scale", "model")
        said |= {name: value for name in same if (value := getattr(self, name))} | self.how().about()
        return said | {KEY: json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)}


def made(base: Recipe | None = None, /, **values: Any) -> Recipe:
    """A recipe of values over those of `base`. Raises UsageError, in one line, for one that is out of bounds."""
    start = {name: getattr(base, name) for name in Recipe.model_fields} if base else {}
    try:
        return Recipe.model_validate({**start, **values})
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        given = "" if not mistake["loc"] else f" = {str(mistake['input'])[:80]}"
        raise UsageError(f"{called(mistake['loc'])}{given}: {message(mistake)}") from None


def called(place: Sequence[int | str]) -> str:
    """A setting as a person calls it: `strength of source 2`, `guidance scale`, `guidance: w_con`."""
    names = [str(part) for part in place]
    if names[:1] in (["strengths"], ["sources"]) and len(names) > 1 and names[1].isdigit():
        return f"{'strength of source' if names[0] == 'strengths' else 'source'} {int(names[1]) + 1}"
    return ": ".join([name.replace("_", " ") for name in names[:1]] + names[1:]) or "recipe"


def only_read(guidance: Guiding) -> Guiding:
    """The guidance without numbers that its kind does not read: they are another kind's."""
    kept = {name: getattr(guidance, name) for name in ("kind", *guidance.reads)}
    return Guiding.model_validate(kept)


def command(recipe: Recipe, n: int = 1, runs: Path | None = None) -> str:
    """The `studio sample` command that draws the same. runs: the folder of the runs, where it is not ./runs."""
    standard, words = Recipe(), ["studio", "sample", *recipe.sources, *flag("prompt", recipe.prompt)]
    words += ["--seed", str(recipe.seed), "--n", str(n)]
    if recipe.each != (1.0,):
        words += ["--strength", *(f"{one:g}" for one in recipe.each)]
    for name in ("negative", "sampler", "steps", "guidance_scale", "decor", "decor_strength", "model"):
        if (value := getattr(recipe, name)) != getattr(standard, name):
            words += flag(name, value)
    for name in ("kind", *recipe.guidance.reads):
        if (value := getattr(recipe.guidance, name)) != getattr(standard.guidance, name):
            words += flag("guidance" if name == "kind" else f"guidance.{name}", value)
    return shlex.join([*words, *(flag("runs", runs) if runs else ())])


def commands(recipes: Sequence[Recipe], runs: Path | None = None) -> str:
    """A command for each picture of a grid, to a file each: the command line puts no sheet of axes together."""
    head = f"# the grid's {len(recipes)} pictures, a command each; only the page puts them together as a sheet"
    lines = (f"{command(one, 1, runs)} --out grid-{number:02}.png" for number, one in enumerate(recipes, 1))
    return "\n".join([head, *lines])


def flag(name: str, value: object) -> list[str]:
    """A setting as words; as one where its text would be taken for a flag."""
    word, text = f"--{name.replace('_', '-')}", str(value)
    return [f"{word}={text}"] if text.startswith("-") else [word, text]
