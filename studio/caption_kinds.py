"""The captioners there are, by name."""

from __future__ import annotations

import importlib
from types import ModuleType

from studio import registry
from studio.pipelines.errors import UsageError
from studio.pipelines.syntax import tree
from studio.reading import defined

NEEDS = {"Config", "build"}


def names() -> list[str]:
    """The modules of `pipelines/captioners` that are captioners; nothing is imported."""
    files = sorted((registry.folder("pipelines") / "captioners").glob("*.py"))
    return [file.stem for file in files if defined(tree(file.read_text("utf-8"))) >= NEEDS]


def load(name: str) -> ModuleType:
    """A captioner's module: docstring, `Config`, `build`. UsageError for a name that does not exist."""
    known = names()
    if name not in known:
        hint = registry.nearest(name, known)
        raise UsageError(f"there is no captioner '{name}'{hint} (there are: {', '.join(known)})")
    return importlib.import_module(f"studio.pipelines.captioners.{name}")
