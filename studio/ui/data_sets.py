"""Sets of uploaded pictures: one that a run uses stays as it is, and a copy of it is changed; pictures taken out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.pipelines.confine import HOME, is_inside
from studio.pipelines.data_image import SUFFIXES, shown
from studio.pipelines.data_masks import mask_base
from studio.pipelines.data_sidecars import BASE, SIDECARS
from studio.pipelines.errors import DataError, UsageError
from studio.ui.data_uploads import copy, fresh, is_picture
from studio.ui.library import toml
from studio.ui.place import Place

if TYPE_CHECKING:
    from studio.pipelines.data_pictures import Pictures

RUNS = ("*/run.toml", ".trash/*/run.toml")  # a run in the trash may come back
NAMED = 3  # runs that a sentence names


def of(place: Place, folder: Path | None) -> Path | None:
    """The upload folder that a folder is, or lies in; None where it is none of this visitor's uploads."""
    if folder is None or not is_inside(place.uploads, folder):
        return None
    uploads, inner = place.uploads.resolve(), folder.resolve()
    return place.uploads / inner.relative_to(uploads).parts[0] if inner != uploads else None


def users(place: Place, uploaded: Path) -> list[str]:
    """The names of the runs that use an upload folder, whatever became of them: each may be gone on with."""
    files = [file for pattern in RUNS for file in sorted(place.runs.glob(pattern))]
    return [file.parent.name.partition("~")[0] for file in files if uses(file, place.uploads, uploaded)]


def uses(file: Path, uploads: Path, uploaded: Path) -> bool:
    """Whether a run.toml names an upload folder, something in it, or all uploads."""
    try:
        text = file.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return False  # deleted meanwhile
    except OSError:
        return True  # what it names cannot be known
    if uploads.name not in text:
        return False
    try:
        named = [Path(word) for word in words(toml(file)) if uploads.name in word and word.isprintable()]
    except (OSError, ValueError, UsageError):
        return uploaded.name in text  # a damaged one
    return any(is_inside(uploaded, path) or path.resolve() == uploads.resolve() for path in named)


def words(value: Any) -> Iterator[str]:
    """Every text in tables and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from words(one)


def kept(names: Sequence[str]) -> str:
    """The sentence that says why a copy was made."""
    if len(names) == 1:
        return f"Run {names[0]} keeps its own pictures; these are a copy."
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"Runs {', '.join(names[:NAMED])}{more} keep their own pictures; these are a copy."


@contextmanager
def changing(place: Place, folder: Path) -> Iterator[tuple[Path, str]]:
    """Inside, a folder whose files may be changed, and a sentence where it is not the one that was given.

    An upload folder that runs use is copied into a new one, which goes again if it cannot be changed. Raises
    UsageError for a folder with uploads in it, DiskError and DataError where there can be no copy.
    """
    uploaded = of(place, folder)
    names = users(place, uploaded) if uploaded else []
    if uploaded is None or not names:
        yield folder, ""
        return
    made = fresh(place.uploads)
    try:
        for path in sorted(uploaded.rglob("*")):
            if path.is_file():
                target = made / path.relative_to(uploaded)
                target.parent.mkdir(parents=True, exist_ok=True)
                copy(path, target)
        yield made / folder.resolve().relative_to(uploaded.resolve()), kept(names)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def apart(place: Place, data: Pictures) -> None:
    """Raises UsageError for a folder that is no upload folder, but has pictures of one in it."""
    if of(place, data.folder) is None and any(is_inside(place.uploads, one.path) for one in data.listing().found):
        raise UsageError("uploads of other runs lie in that folder: name one of the folders in it")


def take_out(place: Place, folder: Path | None, names: Sequence[str]) -> tuple[Path, str]:
    """Deletes pictures of an upload folder, with their captions and masks: the folder then, and what was done.

    names: as the data doctor calls the files. Nothing is deleted unless all are there. Raises UsageError for a folder
    that is no upload, DataError for a file that is gone.
    """
    place.may_write("taking pictures out")
    uploaded = of(place, folder)
    if not names:
        raise UsageError("no picture is chosen: tap one above, or choose it in the list")
    if folder is None or uploaded is None:
        example = folder is not None and is_inside(HOME, folder)
        raise UsageError(
            "example subjects stay as they are: drop pictures of your own"
            if example
            else f"{folder} was not uploaded here, so its files stay: move the pictures out of it on that machine, and "
            "the page follows"
        )
    with changing(place, folder) as (now, said):
        root = now.parent if now.is_file() else now
        there = {shown(path.relative_to(root).as_posix()): path for path in root.rglob("*") if path.is_file()}
        if gone := [name for name in names if name not in there]:
            raise DataError(f"{gone[0][:80]} is not in the folder any more: reload the page")
        chosen = [there[name] for name in names]
        beside = attached(chosen, list(there.values()))
        for path in [*chosen, *beside]:
            delete(path)
    also = f", and what belonged to {'it' if len(names) == 1 else 'them'}: {listed(beside)}" if beside else ""
    return now, f"Taken out: {listed(chosen)}{also}. {said}".rstrip()


def attached(chosen: Sequence[Path], files: Sequence[Path]) -> list[Path]:
    """Captions and masks of the chosen pictures that belong to no other picture."""
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    stems: dict[Path, set[str]] = {}
    for path in images:
        stems.setdefault(path.parent, set()).add(path.stem)
    stay = {(path.parent, path.stem) for path in images if path not in chosen}
    bare = [path for path in chosen if is_picture(path) and (path.parent, path.stem) not in stay]
    texts = {path.with_suffix(suffix) for path in bare for suffix in (*SIDECARS, BASE)}
    of_whom = {(path.parent, path.stem) for path in bare}
    masks = {path for path in images if mask_base(path, stems) in of_whom}
    return sorted(path for path in files if path in texts | masks and path not in chosen)


def delete(path: Path) -> None:
    """Deletes a file. DataError: the system does not let it."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path.name} cannot be taken out: {error.strerror or error}") from error


def listed(paths: Sequence[Path]) -> str:
    """Up to five file names, and how many more."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(shown(path.name) for path in paths[:5]) + more
