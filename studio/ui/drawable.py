"""What can be drawn with: runs, their checkpoints, adapter files; and how recipes name them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from studio import checkpoints
from studio.pipelines import drawing
from studio.pipelines.errors import UsageError
from studio.sample_sources import ADAPTER, AT, checkpoint, file_of
from studio.store import NAME, Run, Store
from studio.ui.place import Place
from studio.ui.recipes import BASE, Recipe, made

DETAILED = 20  # newest runs whose checkpoints are listed beside their adapters; those of others can be typed
FIXED = (("the base model alone", BASE), ("few steps (lcm:embedded)", drawing.EMBEDDED))


def choices(store: Store) -> list[tuple[str, str]]:
    """What a list of sources shows, and the source's name: newest runs first, then what is always there."""
    return [*(pair for number, run in enumerate(store.list()) for pair in of_run(run, number < DETAILED)), *FIXED]


def of_run(run: Run, detailed: bool = True) -> Iterator[tuple[str, str]]:
    """A run's adapter, or what is newest of it so far, and, if wanted, its checkpoints, the newest first."""
    finished, steps = (run.folder / ADAPTER).is_file(), list(checkpoints.steps(run.checkpoints))
    if finished or steps:
        yield run.name if finished else f"{run.name}, its newest checkpoint", run.name
    if detailed:
        for step in reversed(steps):
            yield f"{run.name}, step {step}", f"{run.name}@{step}"


def confined(recipe: Recipe, place: Place) -> Recipe:
    """The recipe with the full paths of its files. Raises UsageError for a source that is not there or not allowed."""
    return made(
        recipe,
        sources=tuple(source(name.strip(), place) for name in recipe.sources),
        model=base(recipe.model.strip(), place),
    )


def source(name: str, place: Place) -> str:
    """A source as `studio sample` takes it, which the visitor may use. Raises UsageError."""
    if name in (BASE, drawing.EMBEDDED):
        return name
    if (at := AT.fullmatch(name)) and NAME.fullmatch(at["run"]):  # a run of theirs, never one by its path
        checkpoint(name, place.runs)
        return name
    if NAME.fullmatch(name) and (place.runs / name / "run.toml").is_file():
        return newest(name, place.runs)
    if looks_like_path(name):
        file = located(name, place, "the adapter")
        if file.is_file() and file.suffix == ".safetensors":
            return str(file)
        raise UsageError(f"{name[:120]!a}: no .safetensors file is there; choose a run or name an adapter's file")
    return Store(place.runs).open(name).name if NAME.fullmatch(name) else unknown(name)


def newest(name: str, runs: Path) -> str:
    """A run by its name; one without an adapter yet by its newest checkpoint, which recipes then say. UsageError."""
    run = Store(runs).open(name)
    steps = [] if (run.folder / ADAPTER).is_file() else list(checkpoints.steps(run.checkpoints))
    if not steps:
        file_of(name, runs)
    return f"{name}@{steps[-1]}" if steps else name


def base(model: str, place: Place) -> str:
    """A base model that the visitor may use: a name, a hub id, or a path below their folders. Raises UsageError."""
    if model and (Path(model).is_absolute() or model.startswith(("~", ".")) or Path(model).exists()):
        return str(place.permitted(model, "the base model"))
    return model


def unknown(name: str) -> str:
    """Always raises UsageError."""
    raise UsageError(f"{name[:80]!a} is no source: give a run, RUN@STEP, an adapter's file, {drawing.EMBEDDED} or base")


def looks_like_path(name: str) -> bool:
    """Whether a name means a file."""
    return "/" in name or "\\" in name or name.endswith(".safetensors")


def located(name: str, place: Place, what: str) -> Path:
    """The file of a path, or of one that is relative to one of the visitor's folders. Raises UsageError."""
    if not Path(name).expanduser().is_absolute():
        for root in (place.runs, *place.roots, place.uploads):
            if (root / name).is_file():
                return place.permitted(root / name, what)
    return place.permitted(name, what)


def portable(recipe: Recipe, place: Place) -> Recipe:
    """The recipe as a picture carries it: files are named from the visitor's folders on, so no path of a home."""
    return made(recipe, sources=tuple(short(name, place) for name in recipe.sources), model=short(recipe.model, place))


def short(name: str, place: Place) -> str:
    """A path below one of the visitor's folders without the way there; a run's own adapter by the run's name."""
    if not Path(name).is_absolute():
        return name
    for root in sorted((place.runs, *place.roots, place.uploads), key=lambda root: -len(root.parts)):
        if Path(name).is_relative_to(root):
            inside = Path(name).relative_to(root)
            own = root == place.runs and inside.parts[1:] == (ADAPTER,)
            return inside.parts[0] if own else inside.as_posix()
    return Path(name).name
