"""Settings as TOML: one table per part, a comment per line, nothing left out; None is written "none"."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

import tomlkit
from pydantic import BaseModel
from tomlkit.container import Container
from tomlkit.items import InlineTable

from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.config import RunConfig

NONE = "none"
MOST = 2**20  # bytes of a config
UNCLOSED = re.compile(r"Unexpected (?:character: '\\x00'|end of file) (at line \d+).*")  # tomlkit's words for it


def parse(text: str, where: str) -> tomlkit.TOMLDocument:
    """A TOML text; UsageError with the line when it is not one."""
    try:
        found = tomlkit.parse(text)
        found.unwrap()  # some mistakes, such as a table that is a value too, only show here
    except RecursionError:
        raise UsageError(f"{where}: not TOML (too deeply nested)") from None
    except Exception as error:  # besides TOMLKitError: what tomlkit's parser trips over in hostile text
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        reason = UNCLOSED.sub(r"it ends inside a list, a table or a string that is not closed, \1", reason)
        raise UsageError(f"{where}: not TOML ({reason})") from None
    return found


def read(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises UsageError when it is missing, not text or not TOML.
    """
    try:
        if path.stat().st_size > MOST:
            raise OSError(errno.EFBIG, f"larger than {MOST >> 20} MB")
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read the config {path}: {reason}") from None
    return parse(text, str(path)).unwrap()


def nones(values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The values with "none" read as None where the model's field may be None."""
    read = dict(values)
    for name, field in model.model_fields.items():
        value, inner = read.get(name), field.annotation
        if value == NONE and NoneType in get_args(inner):
            read[name] = None
        elif isinstance(value, Mapping) and isinstance(inner, type) and issubclass(inner, BaseModel):
            read[name] = nones(value, inner)
    return read


def plain(value: Any) -> Any:
    """A value as TOML can hold it."""
    if value is None:
        return NONE
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def flatten(part: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, plain value) of every setting, at any depth."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, plain(value)


def one_line(text: str | None) -> str:
    """A description as a comment."""
    return " ".join((text or "").split())


def fill(table: Any, part: BaseModel, names: Mapping[str, str]) -> None:
    """Sets every field of a part in a table: present keys keep their comment, new ones get a description.

    names: keys that differ from the field's name (the settings stand in a table named after the trainer).
    """
    fields = type(part).model_fields
    values = {name: getattr(part, name) for name in fields}
    for name, value in values.items():
        if not isinstance(value, BaseModel):
            put(table, name, value, one_line(fields[name].description))
    for name, value in values.items():
        if isinstance(value, BaseModel):
            key = names.get(name, name)
            if key not in table:
                table[key] = tomlkit.table().comment(one_line(fields[name].description))
            fill(table[key], value, {})


def put(table: Any, name: str, value: Any, description: str) -> None:
    """One key of a table: untouched when it has the value already."""
    new = tomlkit.item(plain(value))
    if name not in table:
        inline = isinstance(table, InlineTable)  # a comment in there would end the line
        table[name] = new if inline or not description else new.comment(description)
        return
    old = found(table, name)
    if old.unwrap() != new.unwrap():
        new.trivia.comment_ws, new.trivia.comment = old.trivia.comment_ws, old.trivia.comment
        table[name] = new


def found(table: Any, name: str) -> Any:
    """The item of a key with its comment; for true and false, `table[name]` is the bare value."""
    holder = table if isinstance(table, Container) else getattr(table, "value", None)
    return holder.item(name) if isinstance(holder, Container) else tomlkit.item(table[name])


def update(document: tomlkit.TOMLDocument, config: RunConfig) -> str:
    """The document with every value of the config in it, comments kept.

    Raises UsageError for a layout in which that cannot be done.
    """
    fill(document, config, {"settings": config.trainer})
    text = tomlkit.dumps(document)
    values = plain(config)
    settings = values.pop("settings")
    if parse(text, "the new text").unwrap() != {**values, config.trainer: settings}:
        raise UsageError("the TOML file is laid out in a way that cannot be updated; write it anew with --dry-run")
    return text


def write(config: RunConfig) -> str:
    """The complete config as a fresh document."""
    return update(tomlkit.document(), config)
