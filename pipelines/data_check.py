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

from PIL import Image, UnidentifiedImageError

from studio.pipelines.data_image import decode, one_line, read_bytes, rgb

ORIENTATION, TURNED = 0x0112, frozenset((5, 6, 7, 8))


@dataclass(frozen=True)
class Checked:
    """A picture that was decoded once: its upright size (width, height) and the sha256 of its bytes."""

    size: tuple[int, int]
    content: str


def check(path: Path, background: str = "white") -> Checked | str:
    """Decode the file whole, by the very steps training takes, or say in a few words why that fails."""
    try:
        data = read_bytes(path)
        if not data:
            return "empty file"
        return Checked(inspect(data, background), hashlib.sha256(data).hexdigest())
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


def inspect(data: bytes, background: str) -> tuple[int, int]:
    """Upright (width, height) of a picture that decodes to its end; raises whatever the decoder raises."""
    image = decode(data)
    width, height = image.size
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError
    turned = image.getexif().get(ORIENTATION) in TURNED
    image.draft(None, (64, 64))  # JPEG: read to the end, but at an eighth of the size
    rgb(image, background)
    return (height, width) if turned else (width, height)
