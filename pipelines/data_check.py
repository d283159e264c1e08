"""Looking at picture files before anything trains on them: each is decoded once, whole."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat, UnidentifiedImageError

from studio.pipelines.data_image import decode, one_line, read_bytes, rgb
from studio.pipelines.data_looks import Looks, looks

EVEN = 2  # levels of 255 that the pixels of one colour may differ by: JPEG is not exact
ORIENTATION, TURNED = 0x0112, frozenset((5, 6, 7, 8))


@dataclass(frozen=True)
class Checked:
    """A picture that was decoded once: its upright size (width, height) and the sha256 of its bytes.

    orientation: the EXIF number, 1 for upright; mode: Pillow's; transparent: the share of it that shows the
    background; animated: only the first frame is read; light: mean grey in 0..1; even: one colour all over.
    """

    size: tuple[int, int]
    content: str
    orientation: int
    mode: str
    transparent: float
    animated: bool
    light: float
    even: bool
    looks: Looks


def check(path: Path, background: str = "white") -> Checked | str:
    """Decode the file whole, by the very steps training takes, or say in a few words why that fails."""
    try:
        data = read_bytes(path)
        if not data:
            return "empty file"
        return inspect(data, background)
    except Image.DecompressionBombError:
        return f"decompression bomb: more than {(Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels"
    except UnidentifiedImageError:
        heic = "; HEIC needs pillow-heif, or save it as JPEG" if path.suffix.lower() in (".heic", ".heif") else ""
        return f"not a picture that can be read{heic}"
    except OSError as error:
        return f"cannot be read: {error.strerror or one_line(error)}"
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        return f"corrupt: {one_line(error)}"


def check_all(paths: Sequence[Path], background: str = "white") -> list[Checked | str]:
    """`check` of every file, in order, decoding several at a time."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `inspect` refuses these pictures
        return list(pool.map(lambda path: check(path, background), paths))


def inspect(data: bytes, background: str) -> Checked:
    """A picture that decodes to its end; raises whatever the decoder raises."""
    image = decode(data)
    width, height = image.size
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError
    orientation, mode = image.getexif().get(ORIENTATION, 1), image.mode
    image.draft(None, (64, 64))  # JPEG: read to the end, but at an eighth of the size
    upright = rgb(image, background)
    return Checked(
        size=(height, width) if orientation in TURNED else (width, height),
        content=hashlib.sha256(data).hexdigest(),
        orientation=orientation if orientation in range(2, 9) else 1,
        mode=mode,
        transparent=transparent(image),
        animated=animated(image),
        light=float(ImageStat.Stat(upright.convert("L")).mean[0]) / 255,
        even=even(upright),
        looks=looks(upright),
    )


def even(image: Image.Image) -> bool:
    """Whether it has one colour."""
    extrema: Any = image.getextrema()  # a pair for each band
    return all(high - low <= EVEN for low, high in extrema)


def transparent(image: Image.Image) -> float:
    """The share of the picture that shows what lies behind it."""
    if not image.has_transparency_data or image.mode[0] in "FI":  # grey of many bits: reading drops its alpha
        return 0.0
    return 1 - float(ImageStat.Stat(image.convert("RGBA").getchannel("A")).mean[0]) / 255


def animated(image: Image.Image) -> bool:
    """Whether the file holds more than the frame that is read."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # whatever ails a second frame: there is one, and it is not read
        return True
