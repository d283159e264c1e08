"""Paths that a file names: they stay inside the folder the file speaks about.

What a person types is trusted; what a config, a page, a model folder or a data set says is not. Where strangers may say
anything (a server, a Space), STUDIO_ROOTS names the folders that data, models and runs may lie in: nothing else is
opened for them.
"""

from __future__ import annotations

import os
from pathlib import Path

from studio.pipelines.assets import assets_folder
from studio.pipelines.errors import StudioError, UsageError

HOME = assets_folder()  # what comes with the studio is open to all


def is_inside(root: Path, path: Path) -> bool:
    """Whether `path`, its links followed, lies in `root` or is it; neither has to exist."""
    home, place = os.path.realpath(root), os.path.realpath(path)
    return place == home or place.startswith(home.rstrip(os.sep) + os.sep)


def permitted(path: Path, what: str, error: type[StudioError] = UsageError) -> Path:
    """The path, if it lies in a folder that STUDIO_ROOTS names (`os.pathsep` between them), or none is named.

    Raises `error` otherwise.
    """
    roots = [Path(root).expanduser() for root in os.environ.get("STUDIO_ROOTS", "").split(os.pathsep) if root]
    if not roots or any(is_inside(root, path.expanduser()) for root in (*roots, HOME)):
        return path
    raise error(f"{what} = {ascii(str(path)[:200])} is outside of {', '.join(map(str, roots))} (STUDIO_ROOTS)")


def trusts_code() -> bool:
    """Whether a reward may be a Python function or another server's: not where strangers say what runs, unless who
    opened the place for them (STUDIO_ROOTS) said so too (STUDIO_CODE=1).
    """
    return not os.environ.get("STUDIO_ROOTS") or os.environ.get("STUDIO_CODE") == "1"


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
