"""Small JPEGs of pictures, made once and kept in RUNS/.cache/thumbs: a page of 200 runs loads no big picture."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from studio.pipelines.confine import is_inside

FOLDER = Path(".cache") / "thumbs"
SIDE = 256  # pixels
KEPT = 12_000  # files; the oldest go
LARGEST = 2**27  # pixels of a picture that is opened
HANDS = ThreadPoolExecutor(4, "thumbs")  # Pillow lets other threads run while it reads and shrinks


def thumb(picture: Path, runs: Path, side: int = SIDE) -> Path | None:
    """The small JPEG of a picture, at most `side` pixels wide and high; None where it cannot be read."""
    try:
        about = picture.stat()
        key = f"{picture.absolute()}|{about.st_size}|{about.st_mtime_ns}|{side}"
        small = runs / FOLDER / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.jpg"
        return small if small.is_file() else make(picture, small, side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # SyntaxError: Pillow, of a broken PNG
        return None


def thumbs(pictures: Sequence[Path], runs: Path, side: int = SIDE) -> list[Path | None]:
    """`thumb` of each picture, several at a time."""
    return list(HANDS.map(lambda picture: thumb(picture, runs, side), pictures))


def make(picture: Path, small: Path, side: int) -> Path:
    """Writes the small JPEG aside and renames it; two pages may do that at once."""
    small.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(picture) as file:
        if file.width * file.height > LARGEST:
            raise ValueError(f"{picture}: too large")
        file.draft("RGB", (side, side))
        file.thumbnail((side, side))
        save(flat(file), small)
    if small.stem.endswith("00"):  # one in 256
        prune(small.parents[2])
    return small


def save(picture: Image.Image, small: Path) -> None:
    """The JPEG, whole or not there."""
    aside = small.with_name(f".{small.stem}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        picture.save(aside, "JPEG", quality=82)
        aside.replace(small)
    finally:
        aside.unlink(missing_ok=True)


def flat(picture: Image.Image) -> Image.Image:
    """In RGB, what is transparent on white."""
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture.convert("RGB")
    above = picture.convert("RGBA")
    below = Image.new("RGBA", above.size, "white")
    return Image.alpha_composite(below, above).convert("RGB")


def cover(folder: Path) -> Path | None:
    """The picture that stands for a run: its newest preview, else its grid, else one of the base model's."""
    samples = sorted(path for path in (folder / "samples").glob("*.png") if not path.name.startswith("."))
    mine = [path for path in samples if not path.name.startswith("base")]
    newest = [path for path in mine if path.name.split("-")[0] == mine[-1].name.split("-")[0]][:1]
    found = [*newest, folder / "grid.png", *samples[:1]]
    return next((path for path in found if path.is_file() and is_inside(folder, path)), None)


def blank(runs: Path, side: int = SIDE) -> Path:
    """The tile of a run that has drawn nothing yet."""
    small = runs / FOLDER / f"blank-{side}.jpg"
    if not small.is_file():
        small.parent.mkdir(parents=True, exist_ok=True)
        tile = Image.new("RGB", (side, side), (128, 128, 128))
        words, pen = "no picture yet", ImageDraw.Draw(tile)
        pen.text((side / 2, side / 2), words, "white", ImageFont.load_default(max(10, side // 14)), anchor="mm")
        save(tile, small)
    return small


@lru_cache(maxsize=4096)
def _inline(file: Path, at: int) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode("ascii")


def inline(picture: Path, runs: Path, side: int = 128) -> str:
    """A picture as a data URI, for tables of many; "" where it cannot be read."""
    small = thumb(picture, runs, side)
    return _inline(small, small.stat().st_mtime_ns) if small is not None else ""


def prune(runs: Path, kept: int = KEPT) -> int:
    """Deletes the oldest small JPEGs beyond `kept`; how many went."""
    found = []
    for path in (runs / FOLDER).glob("*.jpg"):
        with suppress(OSError):  # another page deletes as well
            found.append((path.stat().st_mtime_ns, path))
    gone = sorted(found)[: max(0, len(found) - kept)]
    for _, path in gone:
        path.unlink(missing_ok=True)
    return len(gone)
