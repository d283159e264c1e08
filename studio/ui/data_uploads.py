"""Pictures that a visitor drops on the page, taken into a folder of their own after a look at each."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from studio.pipelines.confine import is_inside
from studio.pipelines.data_image import SUFFIXES, shown
from studio.pipelines.data_sidecars import SIDECARS
from studio.pipelines.errors import DataError, DiskError, is_full
from studio.ui import data_zip
from studio.ui.place import Place

MOST_FILES = 1000
MOST_PICTURE, MOST_TEXT = 100 * 2**20, 2**20  # bytes of one file
TEXTS = frozenset({*SIDECARS, ".jsonl", ".csv"})
SAFE = re.compile(r"[^\w.+-]+")
LONE = "captions need their pictures: drop those with it, or put it into their folder"
AGAIN = "open it in another program and save it anew"
KINDS = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))


class Refused(NamedTuple):
    """A file that was not taken: its name, and why, with what to do."""

    name: str
    reason: str


class NothingTaken(DataError):
    """No picture among uploaded files."""

    def __init__(self, refused: list[Refused]) -> None:
        said = "; ".join(f"{one.name}: {one.reason}" for one in refused[:3]) or "none came"
        super().__init__(f"no picture among the files ({said}): drop some of {KINDS}")
        self.refused = refused


class Received(NamedTuple):
    """What became of an upload. said: why `folder` is a copy of the one that it was to be added to; '' where it is not.

    refused: the files that were not taken.
    """

    folder: Path
    refused: list[Refused]
    said: str = ""


def receive(place: Place, files: Sequence[str | Path], into: Path | None = None) -> Received:
    """Copies uploaded files into a new folder below `place.uploads`, or adds them to one of the visitor's.

    One that a run uses stays as it is: they are added to a copy. Raises UsageError where the visitor may not write, and
    NothingTaken (a DataError), with all of them, where no picture is left.
    """
    from studio.ui.data_sets import changing

    place.may_write("uploading pictures")
    if len(files) > MOST_FILES:
        raise DataError(f"{len(files)} files at once; at most {MOST_FILES} are taken: name a folder on the machine")
    taken, refused = sorted_out(list(map(Path, files)))
    mine = into is not None and into != place.uploads and is_inside(place.uploads, into) and into.is_dir()
    if not any(is_picture(path) for path in taken.values()) and not (mine and taken):
        raise NothingTaken([*refused, *(Refused(name, LONE) for name in taken)])
    begun = changing(place, into) if mine and into is not None else nullcontext((fresh(place.uploads), ""))
    with begun as (folder, said):
        refused += lay(taken, folder)
    return Received(folder, refused, said)


def lay(taken: Mapping[str, Path], folder: Path) -> Iterator[Refused]:
    """Copies files into a folder by the names that they get; what of their zips could not be used."""
    zips = {name: path for name, path in taken.items() if path.suffix.lower() == data_zip.SUFFIX}
    for name in taken.keys() - zips.keys():
        copy(taken[name], folder / name)
    for path in zips.values():
        try:
            said = data_zip.lay(path, folder, taken.keys())
        except ValueError as error:
            said = [str(error)]
        yield from (Refused(shown(path.name), one) for one in said)


def sorted_out(files: list[Path]) -> tuple[dict[str, Path], list[Refused]]:
    """The files to take, by the plain names that they get, and the others."""
    taken: dict[str, Path] = {}
    refused: list[Refused] = []
    for path in files:
        name, reason = plain(path.name), unfit(path)
        if not reason and name in taken:
            reason = f"another file of this upload is called {name} too: rename one and drop it again"
        if reason:
            refused.append(Refused(shown(path.name), reason))
        else:
            taken[name] = path
    return taken, refused


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is a picture."""
    return path.suffix.lower() in SUFFIXES


def unfit(path: Path) -> str:
    """Why an uploaded file is not taken, and what to do; '' where it is. A picture is opened as training would."""
    from studio.pipelines.data_check import check

    suffix = path.suffix.lower()
    if suffix == data_zip.SUFFIX:
        return data_zip.unfit(path)
    if suffix not in SUFFIXES | TEXTS:
        return (
            f"a {suffix or 'nameless'} file is neither picture nor caption: drop png, jpg or webp, and captions as .txt"
        )
    size, most = path.stat().st_size, MOST_PICTURE if suffix in SUFFIXES else MOST_TEXT
    if size > most:
        return f"{size >> 20} MB are more than the {most >> 20} MB that one file may have: make it smaller"
    if suffix in SUFFIXES:
        checked = check(path, "white")
        if not isinstance(checked, str):
            return ""
        larger = checked.startswith("decompression bomb: ")
        return f"{checked.removeprefix('decompression bomb: ')}: make it smaller" if larger else f"{checked}; {AGAIN}"
    try:
        path.read_text("utf-8-sig")
    except ValueError:
        return "it is no UTF-8 text: save it as UTF-8"
    return ""


def fresh(uploads: Path) -> Path:
    """A new, empty folder named after now."""
    stem = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        folder = uploads / (f"{stem}-{number}" if number else stem)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise DataError(f"{uploads}: too many uploads within a second; try again")


def plain(name: str) -> str:
    """The name that an uploaded file gets."""
    path = Path(name)
    stem = SAFE.sub("_", path.stem).strip("._") or "picture"
    return f"{stem[:80]}{path.suffix.lower()}"


def copy(path: Path, target: Path) -> None:
    """One file to its place, instead of one that is there. DiskError: no room."""
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        if is_full(error):
            raise DiskError("the disk is full: not all files were taken; make room and drop them again") from error
        raise DataError(f"{shown(path.name)} cannot be taken: {error.strerror or error}") from error
