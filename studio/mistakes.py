"""A wrong setting said in one line: where, which, the value given, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


def keys(config: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings of a config, at any depth."""
    from pydantic import BaseModel

    for name, field in config.model_fields.items():
        yield prefix + name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{prefix}{name}.")


def nearest(word: str, known: Sequence[str]) -> str:
    """The dotted name nearest to a word, by the whole name or its last part; '' if none is near.

    Where the word's table exists, its settings are compared by their last parts, for what they share says nothing, and
    of other tables only a setting of the very same last part is meant.
    """
    word, names = word.replace("-", "_"), [name.replace("-", "_") for name in known]
    table, _, last = word.rpartition(".")
    tables = {name.rpartition(".")[0] for name in names if "." in name}

    def near(name: str) -> float:
        head, _, tail = name.rpartition(".")
        if table not in tables:
            return max(similar(word, name), similar(word, tail))
        return similar(last, tail) if head == table or last == tail else 0.0

    scores = {given: near(name) for given, name in zip(known, names, strict=True)}
    best = max(known, key=lambda name: (scores[name], -name.count(".")), default="")
    return best if best and scores[best] >= 0.55 else ""


def similar(a: str, b: str) -> float:
    """0..1, case and hyphens aside."""
    a, b = (text.lower().replace("-", "_") for text in (a, b))
    return difflib.SequenceMatcher(None, a, b).ratio()


def explain(error: ValidationError, top: type[BaseModel], config: type[BaseModel], trainer: str, file: str = "") -> str:
    """The first mistake of a ValidationError as one line.

    top, config: the models of the top level and of the trainer's table; file: named first when there is one.
    """
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]] or ["the config"]
    settings = error.title == config.__name__ and error.title != top.__name__
    table = ".".join([trainer, *location[:-1]]) if settings else ""
    where = f"{file}: " if file else ""
    if first["type"] == "extra_forbidden":
        known = list(keys(config)) if settings else [name for name in top.model_fields if name != "settings"]
        hint = nearest(".".join(location) if settings else location[-1], known)
        meant = f"; did you mean '{hint}'?" if hint else ""
        return f"{where}{f'[{table}]' if table else 'the top level'} has no setting '{location[-1]}'{meant}"
    given = first["input"]
    shown = f" = {brief(given)}" if not isinstance(given, Mapping) else ""
    return f"{where}{f'[{table}] ' if table else ''}{location[-1]}{shown}: {message(first)}"


def brief(value: Any, most: int = 120) -> str:
    """A value as its repr, cut where it is long; its type where it has none (whole numbers have a limit)."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."


WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def message(mistake: Any) -> str:
    """pydantic's sentence, without its capital and without words of a parser."""
    kind, _, what = str(mistake["type"]).partition("_")
    if kind in WANTED and what in ("type", "parsing", "from_float"):
        return f"should be {WANTED[kind]}"
    text = str(mistake["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]
