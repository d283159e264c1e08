"""Pictures inside the page: scaled down, as data URIs, as many as its size allows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image, features

from studio.pipelines.data_image import decode, read_bytes, rgb

SIDES = (384, 320, 256, 192, 128)  # pixels; the largest at which all pictures should fit
GUESS = 0.25  # bytes per pixel of a photograph at this quality
QUALITY = 82


@dataclass(frozen=True)
class Embedded:
    """A picture in the page. wide, high: pixels of what is embedded."""

    uri: str
    wide: int
    high: int


@dataclass
class Album:
    """Pictures by file. room: characters of the page that pictures may take; those that come first are kept."""

    room: int
    pictures: dict[Path, Embedded] = field(default_factory=dict)
    uses: int = 0
    crowded: set[Path] = field(default_factory=set)
    lost: set[Path] = field(default_factory=set)

    def fill(self, files: Sequence[Path], share: float = 1.0) -> None:
        """Embed files, the most important first; a file counts as often as it is named.

        share: of the room, for which they are scaled down.
        """
        side = fitting(len(files), int(self.room * share))
        for file in files:
            if file in self.lost or file in self.crowded:
                continue
            found = self.pictures.get(file) or embedded(file, side)
            if found is None:
                self.lost.add(file)
            elif self.uses + len(found.uri) > self.room:
                self.crowded.add(file)
                self.pictures.pop(file, None)
            else:
                self.uses += len(found.uri)
                self.pictures[file] = found

    def __getitem__(self, file: Path) -> Embedded | None:
        return self.pictures.get(file)

    def missing(self, files: Iterable[Path]) -> str:
        """In words, how many of the files are not shown, and why; "" where all are."""
        unique = set(files)
        crowded, lost = len(unique & self.crowded), len(unique & self.lost)
        rows = [f"{count(crowded)} left out to keep this page small; the evaluation's folder has them"] * bool(crowded)
        rows += [f"{count(lost)} could not be read"] * bool(lost)
        return "; ".join(rows)


def count(number: int) -> str:
    """So many pictures."""
    return f"{number} picture{'s' if number != 1 else ''}"


def fitting(number: int, room: int) -> int:
    """The side at which so many pictures should fit into so many characters."""
    fits = (side for side in SIDES if number * side * side * GUESS * 4 / 3 <= room)
    return next(fits, SIDES[-1])


def embedded(file: Path, side: int) -> Embedded | None:
    """A picture at most `side` pixels wide and high, as WebP or JPEG without metadata; None where it cannot be read."""
    try:
        picture = rgb(decode(read_bytes(file)))
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    kind = "WEBP" if features.check("webp") else "JPEG"
    written = BytesIO()
    picture.info.clear()  # no prompt, place or colour profile goes along unseen
    picture.save(written, format=kind, quality=QUALITY)
    text = base64.b64encode(written.getvalue()).decode("ascii")
    return Embedded(f"data:image/{kind.lower()};base64,{text}", *picture.size)
