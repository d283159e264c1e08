"""Every file below a folder: handed out, or in the ledger with the reason why not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from studio.pipelines.confine import is_inside, permitted
from studio.pipelines.data_image import SUFFIXES, one_line, shown
from studio.pipelines.errors import DataError, UsageError

TEXTS = (".txt", ".caption", ".jsonl", ".csv")
MOST_FILES = 100_000  # below one folder: more is no data set, and takes minutes to walk through
SYSTEM = tuple(map(Path, ("/proc", "/sys", "/dev")))  # no files of anybody's, and links back to everything
MOST_REPEATS = 1000  # a larger number before a folder's name is a year or a date


@dataclass(frozen=True)
class Rejected:
    """A file (or a metadata row) that is not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Companion:
    """What a file beside the pictures is (caption, mask, metadata), of which pictures, and what is wrong with it."""

    kind: str
    of: tuple[Path, ...] = ()
    note: str = ""


@dataclass
class Ledger:
    """The listing in the making."""

    folder: Path
    known: dict[Path, Companion] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    passed: int = 0

    def count(self) -> None:
        """One more entry was met. Raises DataError for too many."""
        self.passed += 1
        if self.passed > MOST_FILES:
            raise DataError(f"{shown(self.folder)} holds more than {MOST_FILES:,} files: name a folder of pictures")

    def reject(self, path: Path, reason: str) -> None:
        self.rejected.append(Rejected(path, reason))

    def know(self, path: Path, kind: str, of: Path | None = None, note: str = "") -> None:
        """A file that belongs to the pictures; two pictures may share one."""
        before = self.known[path].of if path in self.known else ()
        self.known[path] = Companion(kind, before + ((of,) if of else ()), note)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def name(self, path: Path) -> str:
        return shown(path.relative_to(self.folder).as_posix())


def walk(folder: Path, ledger: Ledger, seen: frozenset[str] = frozenset(), deep: bool = True) -> Iterator[Path]:
    """Regular files below `folder`; hidden, broken and looping entries go to the ledger.

    Raises DataError for a folder that holds too much.
    """
    seen = seen | {os.path.realpath(folder)}
    for path in sorted(folder.iterdir()):
        ledger.count()
        if path.is_symlink() and not os.path.exists(path):
            ledger.reject(path, "a link to nothing")
        elif os.path.isdir(path) and path.is_symlink() and not open_to_all(path):
            ledger.reject(path, "a link that leads out of STUDIO_ROOTS")
        elif os.path.isdir(path):
            yield from descend(path, ledger, seen) if deep else ()
        elif any(part.startswith(".") for part in path.relative_to(ledger.folder).parts):
            ledger.reject(path, "hidden")
        elif not os.path.isfile(path):
            ledger.reject(path, "not a regular file, or closed to us")
        elif path.is_symlink() and not open_to_all(path):
            ledger.reject(path, "a link that leads out of STUDIO_ROOTS; put the file itself here")
        elif path.suffix.lower() in TEXTS and strays(path, ledger.folder):
            ledger.reject(path, "a link that leads out of the folder; put the file itself there")
        else:
            yield path


def is_system(folder: Path) -> bool:
    """Whether a folder, its links followed, is one of SYSTEM."""
    return any(is_inside(system, folder) for system in SYSTEM)


def open_to_all(path: Path) -> bool:
    """Whether a link may be followed."""
    try:
        permitted(path, "link")
    except UsageError:
        return False
    return True


def strays(path: Path, folder: Path) -> bool:
    """Whether a text is a link out of the folder, and not to where the picture of its name really lies too.

    A data set from elsewhere could otherwise have any text of this machine read as a caption.
    """
    if is_inside(folder, path):
        return False
    home = Path(os.path.realpath(path)).parent
    beside = (p for p in path.parent.iterdir() if p.stem == path.stem and p.suffix.lower() in SUFFIXES)
    return all(Path(os.path.realpath(picture)).parent != home for picture in beside)


def descend(folder: Path, ledger: Ledger, seen: frozenset[str]) -> Iterator[Path]:
    """Files below a subfolder, unless it is a link back to a folder that holds it, or closed to us."""
    if os.path.realpath(folder) in seen:
        ledger.reject(folder, "a link back to a folder that holds it")
        return
    if is_system(folder):
        ledger.reject(folder, "the system's own")
        return
    try:
        yield from walk(folder, ledger, seen)
    except OSError as error:
        ledger.reject(folder, f"cannot be read: {error.strerror or one_line(error)}")
