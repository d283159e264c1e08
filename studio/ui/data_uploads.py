"""Pictures that a visitor drops on the page, taken into a folder of their own after a look at each."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from studio.pipelines.confine import is_inside
from studio.pipelines.data_image import SUFFIXES, shown
from studio.pipelines.data_sidecars import SIDECARS
from studio.pipelines.errors import DataError, DiskError, is_full
from studio.ui.place import Place

MOST_FILES = 1000
MOST_PICTURE, MOST_TEXT = 100 * 2**20, 2**20  # bytes of one file
TEXTS = frozenset({*SIDECARS, ".jsonl", ".csv"})
SAFE = re.compile(r"[^\w.+-]+")


def receive(place: Place, files: Sequence[str | Path], into: Path | None = None) -> tuple[Path, list[str]]:
    """Copies uploaded files into a new folder below `place.uploads`, or adds them to one of the visitor's.

    Returns the folder and why each other file was not taken. Raises DataError where no picture is left, UsageError
    where the visitor may not write.
    """
    place.may_write("uploading pictures")
    if len(files) > MOST_FILES:
        raise DataError(f"{len(files)} files at once; at most {MOST_FILES} are taken: name a folder on the machine")
    taken, refused = [], []
    for path in map(Path, files):
        if reason := unfit(path):
            refused.append(f"{shown(path.name)}: {reason}")
        else:
            taken.append(path)
    mine = into is not None and into != place.uploads and is_inside(place.uploads, into) and into.is_dir()
    if not any(is_picture(path) for path in taken) and not (mine and taken):
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise DataError(f"no picture among the files ({'; '.join(refused[:3]) or 'none came'}): drop some of {kinds}")
    folder = into if mine and into is not None else fresh(place.uploads)
    for path in taken:
        copy(path, folder)
    return folder, refused


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is a picture."""
    return path.suffix.lower() in SUFFIXES


def unfit(path: Path) -> str:
    """Why an uploaded file is not taken; '' where it is. A picture is opened and decoded as training would."""
    from studio.pipelines.data_check import check

    suffix = path.suffix.lower()
    if suffix not in SUFFIXES | TEXTS:
        return f"a {suffix or 'nameless'} file is neither picture nor caption"
    size, most = path.stat().st_size, MOST_PICTURE if suffix in SUFFIXES else MOST_TEXT
    if size > most:
        return f"{size >> 20} MB are more than the {most >> 20} MB that one file may have"
    if suffix in SUFFIXES:
        checked = check(path, "white")
        return checked if isinstance(checked, str) else ""
    try:
        path.read_text("utf-8-sig")
    except ValueError:
        return "it is no UTF-8 text"
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


def copy(path: Path, folder: Path) -> None:
    """One file into the folder, under a plain name, in the place of one that has it. DiskError: no room."""
    stem = SAFE.sub("_", path.stem).strip("._") or "picture"
    target = folder / f"{stem[:80]}{path.suffix.lower()}"
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        if is_full(error):
            raise DiskError("the disk is full: not all files were taken; make room and drop them again") from error
        raise DataError(f"{shown(path.name)} cannot be taken: {error.strerror or error}") from error
