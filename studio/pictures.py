"""Pictures on disk: PNGs that carry their prompt and seed, and labelled grids of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from studio.secrets import redact

GAP, MARGIN, TEXT = 6, 10, 13  # pixels


def image(picture: Tensor) -> Image.Image:
    """A picture `[3, H, W]` in 0..1 as an RGB image."""
    return Image.fromarray(picture.float().mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def save(picture: Image.Image, path: Path, **about: object) -> Path:
    """Write a PNG with `about` (prompt, seed, step ...) in its text chunks; aside first, then renamed."""
    info = PngInfo()
    for key, value in about.items():
        info.add_itxt(key, redact(str(value)))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    try:
        picture.save(aside, format="PNG", pnginfo=info)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def grid(
    columns: Mapping[str, Sequence[Image.Image]], rows: Sequence[str], top: Sequence[Image.Image] = ()
) -> Image.Image:
    """A sheet: one column per name, one row per caption, and a strip of reference pictures on top.

    All pictures are shown at one size: at least 128 px wide, so that small ones can be seen.
    """
    side = max(128, min(512, max(p.width for pictures in columns.values() for p in pictures)))
    font = ImageFont.load_default(TEXT)
    wide = max(len(columns) * (side + GAP), len(top) * (side // 2 + GAP)) + 2 * MARGIN
    lines = [textwrap.wrap(text, max(16, int(len(columns) * side / (TEXT * 0.55)))) or [""] for text in rows]
    heads = [textwrap.wrap(name, max(8, int(side / (TEXT * 0.55)))) or [""] for name in columns]
    head = max(map(len, heads)) * (TEXT + 3)
    strip = side // 2 + GAP if top else 0
    high = MARGIN + strip + head + GAP + sum(side + GAP + (TEXT + 3) * len(text) + GAP for text in lines) + MARGIN
    sheet = Image.new("RGB", (wide, high), "white")
    pen, y = ImageDraw.Draw(sheet), MARGIN
    for index, picture in enumerate(top):
        sheet.paste(shown(picture, side // 2), (MARGIN + index * (side // 2 + GAP), y))
    y += strip
    for index, words in enumerate(heads):
        pen.text((MARGIN + index * (side + GAP), y), "\n".join(words), "black", font, spacing=3)
    y += head + GAP
    for row, text in enumerate(lines):
        for line in text:
            pen.text((MARGIN, y), line, "dimgray", font)
            y += TEXT + 3
        for index, pictures in enumerate(columns.values()):
            sheet.paste(shown(pictures[row], side), (MARGIN + index * (side + GAP), y))
        y += side + 2 * GAP
    return sheet


def shown(picture: Image.Image, side: int) -> Image.Image:
    """A picture fitted into a white square."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    square = Image.new("RGB", (side, side), "white")
    fitted = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    square.paste(fitted, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
