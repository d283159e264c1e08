"""The command line of `studio train`: flags made by tyro from the settings' fields, mistakes in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ValidationError

from studio.commands.form import parse
from studio.config import DRAWS, Layer, RunConfig, check_paths, check_place, from_toml, layer, make
from studio.mistakes import explain, keys
from studio.pipelines.assets import assets_folder
from studio.pipelines.drawing import SAMPLERS
from studio.pipelines.errors import UsageError
from studio.pipelines.settings import Part
from studio.registry import trainer as trainer_named

T = TypeVar("T")
ALIASES = {
    "data": "data.folder",
    "trigger": "data.trigger",
    "class-word": "data.class-word",
    "prompt": "data.prompt",
    "resolution": "data.resolution",
    "rank": "adapter.rank",
    "alpha": "adapter.alpha",
    "family": "adapter.family",
    "targets": "adapter.targets",
    "preview-every": "previews.every",
    "pick": "choice.pick",
}
TOP = [name for name in RunConfig.model_fields if name not in ("trainer", "settings")]


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the command line asks of one call; none of it belongs to the run's config."""

    resume: bool = dataclasses.field(default=False, metadata={"help": "Go on with a run; an error if there is none"})
    fresh: bool = dataclasses.field(default=False, metadata={"help": "Start a new run, under a free name if need be"})
    dry_run: bool = dataclasses.field(default=False, metadata={"help": "Print the complete config and do nothing"})
    accept_change: bool = dataclasses.field(
        default=False, metadata={"help": "Go on with a run although its config, pictures or base model changed"}
    )
    json: bool = dataclasses.field(default=False, metadata={"help": "Events as JSON lines on stdout"})


def demo() -> Path:
    """The config that `studio train` uses when it is given nothing."""
    return assets_folder() / "configs" / "demo.toml"


def read(args: Sequence[str], command: str = "train") -> tuple[RunConfig, Wishes]:
    """The config and the wishes of `studio train ARGS`.

    Raises UsageError in one line; SystemExit(0) after printing help.
    """
    what, rest = ("", list(args)) if not args or args[0].startswith("-") else (args[0], list(args[1:]))
    tokens = [unaliased(token) for token in rest]
    base = lowest(what, tokens)
    try:
        values = filled(form(base), tokens, base, command)
        top = {name: getattr(values, name) for name in TOP}
        config = RunConfig(trainer=base.trainer, settings=values.settings, **top)
    except ValidationError as error:
        raise UsageError(explain_flag(error, type(base.settings), tokens)) from None
    return config, Wishes(**{field.name: getattr(values, field.name) for field in dataclasses.fields(Wishes)})


def lowest(what: str, tokens: list[str]) -> RunConfig:
    """The config below the flags: a TOML file's, a trainer's defaults, or, without data, the demo's."""
    for name in ("--data.folder", "--model"):
        if f"{name}=" in tokens or (name, "") in pairwise(tokens):
            raise UsageError(f"{name} is empty; give a value or leave it out")
    if Path(what).is_dir() and what:
        raise UsageError(f"there is no trainer '{what}'; to learn from a folder: studio train --data {what}")
    model = value_of("--model", tokens)
    flags: Layer = {"model": model} if model else {}
    if what.endswith(".toml") or Path(what).is_file():
        config = followed(partial(from_toml, what), flags, drawing(str(layer(what)["trainer"]), tokens))
        if not value_of("--runs", tokens):
            check_place(Path(what), config.runs)
        check_paths(Path(what), config, lambda flag: value_of(flag, tokens))
        return config
    if what or value_of("--data.folder", tokens):
        return followed(partial(make, what), flags, drawing(what, tokens))
    return make(toml=layer(demo()), flags=flags, file=str(demo()))


def followed(made: Callable[..., RunConfig], flags: Layer, drawing: dict[str, Any]) -> RunConfig:
    """The config with previews by flags that say how a run draws; who reads them says what is wrong with them."""
    if drawing:
        with suppress(UsageError):
            return made(flags={**flags, "settings": drawing})
    return made(flags=flags)


def drawing(trainer: str, tokens: list[str]) -> dict[str, Any]:
    """What flags say of the sampler that a run draws with, for its previews; values that are none are left out."""
    kinds = trainer_named(trainer or "dreambooth").Config.model_fields
    found: dict[str, Any] = {}
    for name, kind in DRAWS.items():
        value = value_of(f"--{name.replace('_', '-')}", tokens) or value_of(f"--{name}", tokens)
        with suppress(ValueError):
            found |= {name: kind(value)} if value and name in kinds else {}
    named = value_of("--previews.sampler", tokens)
    return {**found, "previews": {"sampler": named}} if named in SAMPLERS else found


def value_of(flag: str, tokens: list[str]) -> str:
    """The value given to a flag, '' when it is absent."""
    for token, following in zip_longest(tokens, tokens[1:], fillvalue=""):
        if token == flag:
            return following
        if token.startswith(f"{flag}="):
            return token.partition("=")[2]
    return ""


def unaliased(token: str) -> str:
    """A token with a short flag written out."""
    head, equals, value = token.partition("=")
    name = ALIASES.get(head[2:].replace("_", "-")) if head.startswith("--") else None
    return f"--{name}{equals}{value}" if name else token


def form(base: RunConfig) -> Any:
    """A dataclass for tyro: the top level's fields, the wishes, and the settings without a prefix."""
    import tyro

    def field(name: str, kind: Any, default: Any, *marks: Any) -> tuple[str, Any, Any]:
        return name, Annotated[(kind, *marks)], dataclasses.field(default=default)

    fields = []
    for name in TOP:
        top = RunConfig.model_fields[name]
        fields.append(field(name, top.annotation, getattr(base, name), tyro.conf.arg(help=top.description)))
    for wish in dataclasses.fields(Wishes):
        marks = tyro.conf.arg(help=wish.metadata["help"]), tyro.conf.FlagCreatePairsOff
        fields.append(field(wish.name, bool, False, *marks))
    fields.append(field("settings", type(base.settings), base.settings.undecided(), tyro.conf.arg(name="", help="")))
    return dataclasses.make_dataclass("Train", fields, frozen=True)


def description(base: RunConfig, command: str) -> str:
    """The head of the help: how to call it, the trainer's own words, the short flags."""
    words = (trainer_named(base.trainer).__doc__ or "").strip()
    short = ", ".join(f"--{alias} = --{name}" for alias, name in ALIASES.items())
    return f"studio {command} [TRAINER | run.toml] [OPTIONS]\n\n{base.trainer}: {words}\n\nShort: {short}"


def names(config: type[Part]) -> list[str]:
    """The dotted names of all flags, short ones included."""
    wishes = [field.name for field in dataclasses.fields(Wishes)]
    return [*TOP, *wishes, *keys(config), *(alias.replace("-", "_") for alias in ALIASES)]


def filled(form: type[T], tokens: list[str], base: RunConfig, command: str) -> T:
    """The form filled by tyro.

    Raises ValidationError for a value out of bounds, whatever tyro made of it, UsageError for other mistakes.
    """
    try:
        return parse(form, tokens, command, names(type(base.settings)), description=description(base, command))
    except UsageError as error:
        raise error.__cause__ if isinstance(error.__cause__, ValidationError) else error from None


def explain_flag(error: ValidationError, config: type[Part], tokens: list[str]) -> str:
    """A value out of bounds: the flag, the value given and the bound."""
    mistake = error.errors(include_url=False)[0]
    leaf = ".".join(str(part) for part in mistake["loc"])
    given = [token[2:].partition("=")[0].replace("-", "_") for token in tokens if token.startswith("--")]
    fits = [key for key in keys(config) if f".{key}".endswith(f".{leaf}") and owner(config, key) == error.title]
    flag = next((key for key in fits if key in given), leaf)
    said = explain(error, config, config, "")
    if not error.errors()[0]["loc"]:  # of several settings together: it names them itself
        return said.partition(": ")[2]
    return f"--{flag.replace('_', '-')}{said.removeprefix(leaf)}"


def owner(config: Any, key: str) -> str:
    """The class name of the part that a dotted name's last word belongs to."""
    for part in key.split(".")[:-1]:
        config = config.model_fields[part].annotation
    return str(config.__name__)
