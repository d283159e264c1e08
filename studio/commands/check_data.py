"""`studio check-data`: every file of a folder accounted for, before anything trains on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import ValidationError

from studio import subjects
from studio.commands.form import parse
from studio.config import make
from studio.mistakes import explain
from studio.pipelines.data_pictures import Pictures
from studio.pipelines.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Options:
    """Say what a folder of pictures holds: each file used or left out and why, crops, captions, masks."""

    where: tyro.conf.Positional[str] = ""
    """Folder of pictures, or one picture."""
    trainer: str = ""
    """The method whose settings and advice hold; empty: dreambooth."""
    model: str = "embedded"
    """The model that will learn from them: embedded, toy, a folder, a .safetensors file or a hub id."""
    contact_sheet: Path | None = None
    """A PNG to write, with the crop drawn on every picture."""
    json: bool = False
    """One JSON object on stdout."""


def main(args: list[str]) -> int:
    """Runs `studio check-data ARGS`; DataError when nothing usable is there, after the report is printed."""
    options, data = read(args)
    from studio.data_report import check

    check(data, options.model, options.contact_sheet, as_json=options.json)
    return 0


def read(args: Sequence[str]) -> tuple[Any, Pictures]:
    """The options and the data settings of `studio check-data ARGS`. UsageError for what is wrong with them."""
    top = parse_known(args)
    if not top.where:
        raise UsageError("check-data needs a folder of pictures; see studio check-data --help")
    layer = {"model": top.model, "settings": {"data": {"folder": top.where}}}
    base = subjects.resolve(make(top.trainer, flags=layer)).settings.data
    options = parse(form(base), args, "check-data")
    values = {name: getattr(options, name) for name in settings()}
    try:
        return options, Pictures(**{**values, "folder": base.folder})
    except ValidationError as error:
        said = explain(error, Pictures, Pictures, "").replace("_", "-", 1)
        raise UsageError(f"--{said}") from None


def parse_known(args: Sequence[str]) -> Any:
    """The options alone; data settings are let through with the defaults."""
    return parse(form(Pictures()), args, "check-data", description=Options.__doc__)


def settings() -> list[str]:
    """The data settings that have a flag: the folder is the command's own word."""
    return [name for name in Pictures.model_fields if name != "folder"]


def form(base: Pictures) -> Any:
    """A dataclass for tyro: the options, then the data settings with what `base` says as defaults."""
    fields: list[tuple[str, Any, Any]] = []
    for name in settings():
        setting = Pictures.model_fields[name]
        default = dataclasses.field(default=getattr(base, name))
        fields.append((name, Annotated[(setting.annotation, tyro.conf.arg(help=setting.description))], default))
    return dataclasses.make_dataclass("CheckData", fields, bases=(Options,), frozen=True)
