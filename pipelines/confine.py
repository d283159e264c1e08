"""Paths that a file names: they stay inside the folder the file speaks about.

What a person types is trusted; what a config, a page, a model folder or a data set says is not.
"""

from __future__ import annotations

import os
from pathlib import Path

from studio.pipelines.errors import StudioError, UsageError


def is_inside(root: Path, path: Path) -> bool:
    """Whether `path`, its links followed, lies in `root` or is it; neither has to exist."""
    home, place = os.path.realpath(root), os.path.realpath(path)
    return place == home or place.startswith(home.rstrip(os.sep) + os.sep)


def inside(root: Path, name: str | Path, error: type[StudioError] = UsageError, where: str = "") -> Path:
    """`root / name`, for a name out of a file or a page.

    Raises `error`, naming `where` it stood, for an absolute name, one with "..", a control character, or a link that
    leads out.
    """
    if problem := outside(root, str(name)):
        said = f"{ascii(where)[1:-1]}: " if where else ""
        raise error(f"{said}{ascii(str(name)[:80])} {problem}; name a file below {root}")
    return root / name


def outside(root: Path, name: str) -> str:
    """Why a name does not stay inside `root`; '' when it does."""
    path = Path(name)
    if not name or not name.isprintable():  # also line ends, NUL and halves of surrogate pairs
        return "is no file name"
    if path.is_absolute() or path.drive or "\\" in name or ".." in path.parts:
        return "points outside its folder"
    try:
        return "" if is_inside(root, root / path) else "is a link that leads out of its folder"
    except (OSError, ValueError):
        return "is no file name"
