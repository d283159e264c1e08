"""One picture file as upright 8-bit RGB: whether turned, transparent, palette, 16-bit, CMYK or animated."""

from __future__ import annotations

import stat
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

KINDS = "png|jpg|jpeg|jfif|webp|bmp|gif|tif|tiff|avif|ppm|pgm|pnm|tga|jp2|heic|heif"
SUFFIXES = frozenset(f".{kind}" for kind in KINDS.split("|"))
MOST_BYTES = 2**29  # of a picture: 90 million pixels of 16-bit RGB, uncompressed, are as many
# named, because Pillow otherwise goes by content and would hand a disguised EPS to Ghostscript
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "TGA", "JPEG2000", "HEIF")


def decode(data: bytes) -> Image.Image:
    """The lazily opened picture. UnidentifiedImageError where the bytes are none of `FORMATS`."""
    Image.init()
    return Image.open(BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """The first frame, upright, its transparency composited on `background`, as RGB."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or upright.mode.startswith("I"):
        upright = eight_bits(upright)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    ground = Image.new("RGBA", layer.size, (*ImageColor.getrgb(background)[:3], 255))
    return Image.alpha_composite(ground, layer).convert("RGB")


def eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of more than eight bits per pixel as mode L: Pillow's own conversion would clip it."""
    values = np.asarray(image).astype(np.float64)
    top = values.max(initial=0)
    full = 1.0 if image.mode == "F" and top <= 1 else 255.0 if image.mode[1:] == "" and top <= 255 else 65535.0
    return Image.fromarray((values.clip(0, full) * (255 / full)).round().astype(np.uint8))


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The file's bytes. OSError, also for a file that is too large or no regular one: a pipe would block for ever."""
    there = path.stat()
    if not stat.S_ISREG(there.st_mode):
        raise OSError("not a regular file")
    if there.st_size > most:
        raise OSError(f"larger than {most >> 20} MB")
    return path.read_bytes()


def one_line(error: BaseException) -> str:
    """The error's message on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def shown(name: object) -> str:
    """A file name fit for one line: control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))
