"""The files of pictures drawn on the page: RUNS/.pictures, named by their drawing's time, the newest kept."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from studio.ui.place import Place

NAME = ".pictures"
MOST = 2000  # pictures that are kept; the oldest go first
MOMENT = len("20260102-030405-678901")  # letters of a name that pictures drawn together share
OURS = re.compile(r"\d{8}-\d{6}-\d{6}-(\d{3}-)?(s\d+|grid)(-\d+)?\.png")


def stamp() -> str:
    """Now, as the beginning of a file's name: names sort by time."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S-%f}"


def free(folder: Path, name: str) -> Path:
    """A file that is not there yet."""
    number, path = 1, folder / f"{name}.png"
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.png"
    return path


def newest(folder: Path) -> list[Path]:
    """The pictures of a folder: what was drawn last first, and of one drawing its sheets, then its order."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.png"), key=lambda path: ("-grid" not in path.name, path.name)):
        found.setdefault(path.name[:MOMENT], []).append(path)
    return [path for moment in sorted(found, reverse=True) for path in found[moment]]


def prune(place: Place, most: int = MOST) -> int:
    """Removes the oldest pictures beyond so many; how many went. Files that the page did not name are left alone."""
    found = sorted(path for path in (place.runs / NAME).glob("*.png") if OURS.fullmatch(path.name))
    gone = found[:-most]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)
