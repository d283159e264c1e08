"""A zip of captions, as the studio keeps what it writes anew, laid beside uploaded pictures of their names."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Set
from pathlib import Path, PurePosixPath

from studio.caption_backup import put
from studio.pipelines.data_image import SUFFIXES, shown
from studio.pipelines.data_sidecars import SIDECARS

SUFFIX = ".zip"
MOST_FILES, MOST_TEXT, MOST_ZIP = 5000, 2**20, 16 * 2**20  # captions, bytes of one and of all
LARGE = "it holds more than captions take: unpack it and drop the files"
# RuntimeError: it is encrypted, or of an unknown kind
FAULTS = (OSError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile)


def unfit(path: Path) -> str:
    """Why a zip is not taken, and what to do; '' where it holds captions and nothing else."""
    if path.stat().st_size > MOST_ZIP:
        return LARGE
    try:
        with zipfile.ZipFile(path) as archive:
            found = [entry for entry in archive.infolist() if not entry.is_dir()]
    except FAULTS:
        return "it is damaged, or no zip: drop the files themselves"
    if not found:
        return "it is empty"
    if other := next((entry.filename for entry in found if suffix(entry.filename) not in SIDECARS), ""):
        return f"a zip may hold captions only, and this one has {shown(other)[:80]}: unpack it and drop the files"
    sizes = [entry.file_size for entry in found]
    if len(sizes) > MOST_FILES or max(sizes) > MOST_TEXT or sum(sizes) > MOST_ZIP:
        return LARGE
    return ""


def captions(path: Path) -> Iterator[tuple[str, bytes]]:
    """(file name without folders, text) of a fit zip. Raises ValueError, with what to do, for what cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    with archive.open(entry) as file:
                        text = file.read(MOST_TEXT)  # whatever size the zip claims
                    text.decode("utf-8-sig")
                    yield PurePosixPath(entry.filename).name, text
    except UnicodeDecodeError:
        raise ValueError(f"{shown(entry.filename)[:80]} in it is no UTF-8 text: save it as UTF-8") from None
    except FAULTS as error:
        raise ValueError(f"it cannot be read ({error}): unpack it and drop the files") from None


def lay(path: Path, folder: Path, own: Set[str]) -> list[str]:
    """Writes a zip's captions beside the pictures of their names in a folder; what could not be used, and why.

    own: names of caption files that were dropped beside the zip, which are newer. Raises as `captions`.
    """
    from studio.ui.data_uploads import plain

    pictures = {one.stem for one in folder.iterdir() if one.suffix.lower() in SUFFIXES}
    newer = {Path(name).stem for name in own if suffix(name) in SIDECARS}
    said: dict[str, list[str]] = {}
    done: set[str] = set()
    for name, text in captions(path):
        target = plain(name)
        if Path(target).stem.removesuffix(".base") not in pictures:
            reason = "has no picture of its name here: drop the picture too"
        elif Path(target).stem in newer:
            reason = "was passed over for the file of that name that came with it"
        elif target in done:
            reason = "is in it twice, in several folders: unpack it and drop the files you mean"
        else:
            reason = put(folder / target, text)
            done.add(target)
        if reason:
            said.setdefault(reason, []).append(shown(name))
    return [f"{listed(names)} in it {reason}" for reason, names in said.items()]


def suffix(name: str) -> str:
    """How a file's name ends, in small letters."""
    return PurePosixPath(name).suffix.lower()


def listed(names: list[str]) -> str:
    """Up to three names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
