"""Which file of this folder, or which plug-in, loads which model. Our own files are read, not imported."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from studio.pipelines.errors import ModelError
from studio.pipelines.syntax import tree


@dataclass(frozen=True)
class Family:
    """A module with `load(source, device, dtype)` and what it answers to.

    classes: pipeline classes in model_index.json; keys: prefixes only its single files have; names: models
    that need no files.
    """

    module: str
    classes: tuple[str, ...]
    keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def load(self, *arguments: Any) -> Any:
        """The model; see `studio.pipelines.backbone.load`."""
        return importlib.import_module(self.module).load(*arguments)


FIELDS = {"CLASSES": "classes", "KEYS": "keys", "NAMES": "names"}


@cache
def ours() -> tuple[Family, ...]:
    """The families in this folder: every file with a `CLASSES` tuple at its top level."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        values = {FIELDS[name]: value for name, value in constants(path).items()}
        if "classes" in values:
            found.append(Family(f"studio.pipelines.{path.stem}", **values))
    return tuple(found)


def constants(path: Path) -> dict[str, tuple[str, ...]]:
    """The tuples assigned to CLASSES, KEYS and NAMES at the top level of a file."""
    text = path.read_text(encoding="utf-8")
    body = tree(text).body if "CLASSES = " in text else []
    assigned = [node for node in body if isinstance(node, ast.Assign)]
    named = [(target.id, node.value) for node in assigned for target in node.targets if isinstance(target, ast.Name)]
    return {name: tuple(ast.literal_eval(value)) for name, value in named if name in FIELDS}


def theirs() -> tuple[list[Family], list[str]]:
    """Families from plug-ins (entry points `studio.backbones`), and one line for each that is broken."""
    found, broken = [], []
    for point in entry_points(group="studio.backbones"):
        try:
            module = importlib.import_module(point.value.split(":")[0])
            values = {FIELDS[name]: tuple(getattr(module, name)) for name in FIELDS if hasattr(module, name)}
            found.append(Family(module.__name__, **values))
        except Exception as error:  # a plug-in may fail in any way, and must not take our own families with it
            broken.append(f"plug-in {point.name}: {type(error).__name__}: {error}")
    return found, broken


def pick(matches: Callable[[Family], bool], what: str) -> Family:
    """The first family that matches, ours before plug-ins. Raises ModelError saying what was looked for."""
    for family in ours():
        if matches(family):
            return family
    found, broken = theirs()
    for family in found:
        if matches(family):
            return family
    known = ", ".join(sorted({name for family in (*ours(), *found) for name in family.classes}))
    raise ModelError("; ".join([f"{what} is of no known model family (known: {known})", *broken]))
