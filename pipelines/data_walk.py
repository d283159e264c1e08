"""Every file below a folder: handed out, or in the ledger with the reason why not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from studio.pipelines.data_image import one_line, shown

MOST_REPEATS = 1000  # a larger number before a folder's name is a year or a date


@dataclass(frozen=True)
class Rejected:
    """A file (or a metadata row) that is not used, and why."""

    path: Path
    reason: str


@dataclass
class Ledger:
    """The listing in the making."""

    folder: Path
    known: set[Path] = field(default_factory=set)
    rejected: list[Rejected] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def reject(self, path: Path, reason: str) -> None:
        self.rejected.append(Rejected(path, reason))

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def name(self, path: Path) -> str:
        return shown(path.relative_to(self.folder).as_posix())


def walk(folder: Path, ledger: Ledger, seen: frozenset[str] = frozenset(), deep: bool = True) -> Iterator[Path]:
    """Regular files below `folder`; hidden, broken and looping entries go to the ledger."""
    seen = seen | {os.path.realpath(folder)}
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not os.path.exists(path):
            ledger.reject(path, "a link to nothing")
        elif os.path.isdir(path):
            yield from descend(path, ledger, seen) if deep else ()
        elif any(part.startswith(".") for part in path.relative_to(ledger.folder).parts):
            ledger.reject(path, "hidden")
        elif not os.path.isfile(path):
            ledger.reject(path, "not a regular file, or closed to us")
        else:
            yield path


def descend(folder: Path, ledger: Ledger, seen: frozenset[str]) -> Iterator[Path]:
    """Files below a subfolder, unless it is a link back to a folder that holds it, or closed to us."""
    if os.path.realpath(folder) in seen:
        ledger.reject(folder, "a link back to a folder that holds it")
        return
    try:
        yield from walk(folder, ledger, seen)
    except OSError as error:
        ledger.reject(folder, f"cannot be read: {error.strerror or one_line(error)}")
