"""Which scorer a term of a reward means: numbers are read off the files of `pipelines/scorers`, nothing is imported.

A file says in `NUMBERS` which numbers its `build` can give, and in `ASKED` which of them are there only with a certain
setting: its key, and an example. Scorers of other packages come by the name of their entry
point in the group `studio.scorers`; what they give is known when they are built.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import ValidationError

from studio.pipelines.confine import permitted
from studio.pipelines.errors import StudioError, UsageError
from studio.pipelines.protocols import Scorer
from studio.pipelines.rewards_terms import Term, nearest, spelled
from studio.pipelines.syntax import tree

FOLDER, PACKAGE, GROUP = Path(__file__).with_name("scorers"), "studio.pipelines.scorers", "studio.scorers"


def numbers() -> dict[str, str]:
    """Module of each number and of each file or entry point, by name; a number's own file comes first."""
    found: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*.py")):
        if path.stem.startswith("_") or path.stem == "base":
            continue
        module = f"{PACKAGE}.{path.stem}"
        found.setdefault(spelled(path.stem), module)
        found |= {spelled(name): module for name in literal(path)}
    for point in entry_points(group=GROUP):
        found.setdefault(spelled(point.name), point.module)
    return found


def literal(path: Path) -> tuple[str, ...]:
    """The tuple `NUMBERS` in a source file; () where there is none."""
    for node in tree(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "NUMBERS" for t in node.targets):
            return tuple(ast.literal_eval(node.value))
    return ()


def find(term: Term, device: torch.device, dtype: torch.dtype) -> Scorer:
    """The scorer that a term names, with its settings. Raises UsageError, and ModelError as the scorer does."""
    known, wanted = numbers(), spelled(term.name)
    if wanted not in known:
        raise UsageError(
            f"reward term '{term.said}': there is no scorer '{term.name}'{nearest(wanted, known)} "
            f"(there are: {', '.join(sorted(known))}; or module:function, or http://...)"
        )
    module = imported(known[wanted], term)
    config = configured(module.Config, term)
    try:
        found: list[Scorer] = module.build(config, device, dtype)
    except (StudioError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a stranger's scorer
        raise UsageError(f"reward term '{term.said}': {type(error).__name__}: {line(error)}") from error
    names = [spelled(one.about.name) for one in found]
    if wanted in names:
        return found[names.index(wanted)]
    if len(found) == 1 and wanted not in map(spelled, getattr(module, "NUMBERS", ())):
        return found[0]
    there, fields = ", ".join(names) or "nothing", ", ".join(type(config).model_fields)
    raise UsageError(
        f"reward term '{term.said}': with these settings {known[wanted].rpartition('.')[2]} gives {there}: "
        f"{instead(term, names, getattr(module, 'ASKED', {}))} (its settings: {fields})"
    )


def instead(term: Term, names: Sequence[str], asked: Mapping[str, tuple[str, str]]) -> str:
    """What to write in the place of a term whose settings do not give its number. asked: `ASKED` of its file."""
    if (wanted := spelled(term.name)) not in asked:
        return "name one of them, or give other settings" if names else "give other settings"
    key, value = asked[wanted]
    return f"{wanted} needs {key}, e.g. {replace(term, settings={**term.settings, key: value}).label}"


def imported(module: str, term: Term) -> ModuleType:
    """A scorer's module. Raises UsageError when it does not import, or is no scorer."""
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a stranger's module raises, the person needs its name and reason
        raise UsageError(f"reward term '{term.said}': {module} does not import: {line(error)}") from error
    for need in ("Config", "build"):
        if not hasattr(found, need):
            raise UsageError(f"reward term '{term.said}': {module} has no '{need}'")
    return found


def configured(kind: Any, term: Term) -> Any:
    """A scorer's settings out of a term's words. Raises UsageError for an unknown or impossible one."""
    for key in term.settings:
        if key not in kind.model_fields:
            raise UsageError(
                f"reward term '{term.said}': {term.name} has no setting '{key}'{nearest(key, kind.model_fields)} "
                f"(there are: {', '.join(kind.model_fields)})"
            )
        if local(term.settings[key]):
            permitted(Path(term.settings[key]), f"reward term '{term.name}': {key}")
    try:
        return kind(**term.settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"reward term '{term.said}': {where}: {first['msg'].removeprefix('Value error, ')}") from None


def local(value: str) -> bool:
    """Whether a setting names something on this machine."""
    try:
        return Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, NUL, nobody's home
        return False


def line(error: Exception) -> str:
    """An error's words in one line."""
    return " ".join(str(error).split()) or type(error).__name__
