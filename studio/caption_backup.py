"""Caption files written whole or not at all, and a zip of what they replace."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from studio.caption_rows import Job
from studio.pipelines.data_image import one_line, shown
from studio.pipelines.errors import is_full


def put(path: Path, data: bytes) -> str:
    """Write a file aside and rename it; why that is not possible, or ''. OSError: the disk is full."""
    aside = path.with_name(f".caption-{os.getpid()}.part")
    try:
        aside.unlink(missing_ok=True)
        with aside.open("xb") as file:  # a new file: a data set from elsewhere may hold a link of that name
            file.write(data)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if is_full(error):
            raise
        return f"cannot be written: {error.strerror or one_line(error)}"
    return ""


def encodable(name: str) -> str:
    """The name, or its escaped form where it is no Unicode text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return shown(name)
    return name


def back_up(root: Path, jobs: Sequence[Job]) -> tuple[Path | None, str]:
    """A zip of the text files that the jobs may replace, in `root`, and why there is none; (None, '') for nothing.

    `unzip -o` in the folder puts everything back.
    """
    kept = [job for job in jobs if job.before]
    if not kept:
        return None, ""
    data = BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for job in kept:
            archive.writestr(encodable(job.target.relative_to(root).as_posix()), job.before)
    stem = f".captions-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (f"{stem}{f'-{number}' if number else ''}.zip" for number in range(1000))
    path = next(root / name for name in names if not os.path.lexists(root / name))
    reason = put(path, data.getvalue())
    return (None, reason) if reason else (path, "")
