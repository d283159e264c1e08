"""What can be chosen by name: ours found in folders, other people's by entry points, nothing imported."""

from __future__ import annotations

import ast
import difflib
import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Literal

import studio
from studio.pipelines import syntax
from studio.pipelines.errors import UsageError
from studio.reading import defined, imports, locate, there

Kind = Literal["trainers", "models", "scorers"]


@dataclass(frozen=True)
class Entry:
    """One choice: name, first docstring line, where it comes from, why it cannot be used ('' if it can).

    numbers: of a scorer, what it says of a picture, as rewards name it.
    """

    name: str
    summary: str
    source: str
    error: str = ""
    module: str = ""
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Door:
    """Where a kind is found: a folder, an entry-point group, and what marks a file as one of the kind."""

    folder: str
    group: str
    belongs: Callable[[ast.Module], bool]
    needs: tuple[str, ...] = ()


DOORS: dict[str, Door] = {
    "trainers": Door("trainers", "studio.trainers", lambda tree: "losses" in defined(tree), ("Config", "losses")),
    "models": Door("pipelines", "studio.backbones", lambda tree: "CLASSES" in defined(tree), ("CLASSES", "load")),
    "scorers": Door("pipelines/scorers", "studio.scorers", lambda tree: "build" in defined(tree), ("Config", "build")),
}


def folder(name: str) -> Path:
    """The folder `name` of the package, in a checkout or in an installation."""
    found = [path for root in studio.__path__ if (path := Path(root) / name).is_dir()]
    return found[0] if found else Path(studio.__path__[0]) / name


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def door(kind: str) -> Door:
    """The door of a kind; UsageError for a kind that does not exist."""
    if kind not in DOORS:
        raise UsageError(f"there are no '{kind}' to list{nearest(kind, DOORS)} (kinds: {', '.join(DOORS)})")
    return DOORS[kind]


def describe(kind: str) -> list[Entry]:
    """Every choice of a kind, sorted by name, broken ones and doubles with their error."""
    entries = [*builtin(kind), *own(kind), *foreign(kind)]
    count = Counter(entry.name for entry in entries)
    sources = {name: " and ".join(e.source for e in entries if e.name == name) for name in count}
    return sorted(
        (
            replace(e, error=f"two {kind} are called '{e.name}': {sources[e.name]}") if count[e.name] > 1 else e
            for e in entries
        ),
        key=lambda entry: (entry.name, entry.source),
    )


def names(kind: str) -> list[str]:
    """The names that can be used."""
    return [entry.name for entry in describe(kind) if not entry.error]


def builtin(kind: str) -> Iterator[Entry]:
    """Models that come with the package and are not a family of checkpoints."""
    if kind != "models":
        return
    weights = folder("assets") / "base"
    error = "" if (weights / "model_index.json").is_file() else f"its weights are not in {weights}"
    yield Entry("embedded", "The small diffusion model inside this package: no download.", str(weights), error)
    toy = folder("pipelines") / "toy.py"
    if toy.is_file() and not door(kind).belongs(syntax.tree(toy.read_text("utf-8"))):
        yield parsed("toy", "studio.pipelines.toy", toy)


def own(kind: str) -> Iterator[Entry]:
    """Ours: the files of the kind's folder."""
    where = door(kind)
    for path in sorted(folder(where.folder).glob("*.py")):
        entry = parsed(path.stem, f"studio.{where.folder.replace('/', '.')}.{path.stem}", path)
        hidden = path.stem.startswith("_") or path.stem == "base"
        if not hidden and (entry.error or where.belongs(syntax.tree(path.read_text("utf-8")))):
            yield entry


def foreign(kind: str) -> Iterator[Entry]:
    """Other people's: the entry points of the kind's group."""
    where = door(kind)
    for point in entry_points(group=where.group):
        module = point.module
        try:
            path = locate(module)
        except Exception as error:  # a stranger's package must not stop the list
            yield Entry(point.name, "", source(point), f"{type(error).__name__}: {error}", module)
            continue
        yield replace(parsed(point.name, module, path, where.needs), source=source(point))


def source(point: EntryPoint) -> str:
    """Who brings an entry point: distribution, version and module."""
    who = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"
    return f"{who} ({point.value})"


def parsed(name: str, module: str, path: Path, needs: tuple[str, ...] = ()) -> Entry:
    """An entry read off a source file, with the first thing that would stop its import."""
    try:
        tree = syntax.tree(path.read_text("utf-8"))
    except (SyntaxError, ValueError, OSError) as error:
        return Entry(name, "", str(path), f"{type(error).__name__}: {error}", module)
    summary = (ast.get_docstring(tree) or "").strip().split("\n\n")[0].replace("\n", " ")
    missing = [f"it has no '{need}'" for need in needs if need not in defined(tree)]
    absent = [f"it needs the package '{root}', which is not installed" for root in imports(tree) if not there(root)]
    return Entry(name, summary, str(path), "; ".join((absent + missing)[:1]), module, stated(tree))


def stated(tree: ast.Module) -> tuple[str, ...]:
    """`NUMBERS` of a scorer's file."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(one, "id", "") == "NUMBERS" for one in node.targets):
            with suppress(ValueError):
                return tuple(map(str, ast.literal_eval(node.value)))
    return ()


def find(kind: str, name: str) -> Entry:
    """The entry of that name; UsageError with the nearest name, or with the reason why it cannot be used."""
    entries = describe(kind)
    chosen = [entry for entry in entries if entry.name == name]
    if not chosen:
        known = sorted({entry.name for entry in entries})
        raise UsageError(f"there is no {kind[:-1]} '{name}'{nearest(name, known)} (there are: {', '.join(known)})")
    if chosen[0].error:
        raise UsageError(f"the {kind[:-1]} '{name}' cannot be used: {chosen[0].error}")
    return chosen[0]


def load(kind: str, name: str) -> ModuleType:
    """A choice's module, imported; UsageError when it is unknown, doubled, incomplete or fails."""
    entry = find(kind, name)
    try:
        module = importlib.import_module(entry.module)
    except Exception as error:  # whatever a stranger's module raises, the person needs its name and reason
        raise UsageError(f"the {kind[:-1]} '{name}' from {entry.source} does not import: {error!r}") from error
    for need in door(kind).needs:
        if not hasattr(module, need):
            raise UsageError(f"the {kind[:-1]} '{name}' from {entry.source} has no '{need}'")
    return module


def trainer(name: str) -> ModuleType:
    """A trainer's module: docstring, `Config`, `losses`; UsageError as `load`."""
    return load("trainers", name)
