"""The `studio evaluate` command that asks for an evaluation once more."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.evaluation.request import Request

FLAGS = {"strengths": "strength", "options": "option"}  # fields that the command line calls something else


def command(sources: Sequence[str], request: Request) -> str:
    """The command line of a request: the sources as they were given, and every flag that is not its default."""
    words = ["studio", "evaluate", *sources]
    for one in fields(request):
        value = getattr(request, one.name)
        usual = one.default_factory() if one.default_factory is not MISSING else one.default
        if value != usual:
            words += flag(FLAGS.get(one.name, one.name).replace("_", "-"), value)
    return shlex.join(words)


def flag(name: str, value: Any) -> Iterator[str]:
    """A flag with its values: numbers one after the other, names with commas between, settings one by one."""
    if isinstance(value, Mapping):
        for scorer, settings in value.items():
            for key, inner in settings.items():
                yield from (f"--{name}", f"{scorer}.{key}={inner}")
        return
    yield f"--{name}"
    if isinstance(value, (list, tuple)):
        texts = [one if isinstance(one, str) else f"{one:g}" for one in value]
        yield from [",".join(texts)] if any(isinstance(one, str) for one in value) else texts
    elif isinstance(value, Path):
        yield value.as_posix()
    elif not isinstance(value, bool):
        yield str(value)
