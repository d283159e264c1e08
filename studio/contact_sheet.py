"""The contact sheet: every picture with the crop that training sees, its name, size and bucket."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from studio.data_doctor import Report, changes
from studio.pipelines import buckets
from studio.pipelines.data_image import decode, rgb, shown
from studio.pipelines.data_pictures import Example
from studio.pipelines.data_view import unchanged

BOX, GAP, MARGIN, LINE, TEXT = (200, 150), 14, 20, 17, 13  # pixels
MOST, LINES = 240, 40  # pictures and left-out files on one sheet
INK, PALE, GROUND, FRAME, NOTE, WRONG = "#1a1a1a", "#6a6a6a", "#ececec", "#ff7a00", "#a04a00", "#b00020"
VEIL = 0.62  # how dark what the crop cuts away is drawn


def sheet(report: Report) -> Image.Image:
    """One picture of the whole set; in a set of more than 240, of the first ones, which it says."""
    examples = report.dataset.examples[:MOST]
    columns = max(3, min(6, len(examples)))
    words = [labels(report, number) for number in range(len(examples))]
    high = BOX[1] + max(map(len, words), default=0) * LINE + GAP
    rows = -(-len(examples) // columns)
    out = [f"{file.name}: {file.what}" for file in report.files if file.state == "left out"]
    if len(out) > LINES:
        out[LINES:] = [f"and {len(out) - LINES} more"]
    head, foot = 2 * LINE + GAP, (len(out) + 1) * LINE if out else 0
    wide = columns * (BOX[0] + GAP) - GAP + 2 * MARGIN
    page = Image.new("RGB", (wide, head + rows * high + foot + 2 * MARGIN), "white")
    pen, y = ImageDraw.Draw(page), MARGIN
    for text, colour in zip(title(report, len(examples)), (INK, PALE), strict=True):
        write(pen, (MARGIN, y), text, colour, wide - 2 * MARGIN)
        y += LINE
    y += GAP
    for number, example in enumerate(examples):
        down, across = divmod(number, columns)
        x, top = MARGIN + across * (BOX[0] + GAP), y + down * high
        page.paste(thumbnail(example, report.dataset.settings.background), (x, top))
        for line, (text, colour) in enumerate(words[number]):
            write(pen, (x, top + BOX[1] + 3 + line * LINE), text, colour, BOX[0])
    y += rows * high
    for number, text in enumerate(["left out:", *out] if out else []):
        write(pen, (MARGIN, y + number * LINE), text, INK if number else WRONG, wide - 2 * MARGIN)
    return page


def title(report: Report, drawn: int) -> tuple[str, str]:
    """What the sheet is of, and how to read it."""
    data = report.dataset
    first = f"the first {drawn} of " if drawn < len(data) else ""
    crop = "cropped at random, the centre is drawn" if data.settings.crop == "random" else "centre crop"
    name = shown(Path(data.settings.folder or "").name)
    return f"{name}: {first}{report.verdict()}", f"inside the frame: what training sees ({crop}); dark: cut away"


def labels(report: Report, number: int) -> list[tuple[str, str]]:
    """The lines below a picture, with their colours: name, sizes, up to two on what is special about it."""
    example, settings = report.dataset.examples[number], report.dataset.settings
    (width, height), (across, down) = example.size, example.bucket
    kept = buckets.kept(example.size, example.bucket)
    notes = [*changes(example, settings.background), *report.twins(number)]
    if example.mask_seen is not None:
        notes.append(f"mask {example.mask_seen.light:.0%} white")
    sizes = f"{width}x{height} to {across}x{down}, {kept:.0%} kept"
    special = [text for text in ("".join(notes[:1]), "; ".join(notes[1:])) if text]
    return [(shown(example.name), INK), (sizes, PALE), *((text, NOTE) for text in special)]


def thumbnail(example: Example, background: str) -> Image.Image:
    """The whole picture in a box, with its crop framed and the rest veiled. DataError: the file has changed."""
    image = decode(unchanged(example.path, example.content))
    image.draft("RGB", (2 * BOX[0], 2 * BOX[1]))
    upright = rgb(image, background)
    scale = min(BOX[0] / example.size[0], BOX[1] / example.size[1])
    size = (max(1, round(example.size[0] * scale)), max(1, round(example.size[1] * scale)))
    small = upright.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    left, top, right, bottom = (round(edge * scale) for edge in buckets.crop_box(example.size, example.bucket))
    frame = left, top, max(left + 1, right), max(top + 1, bottom)
    veiled = Image.blend(small, Image.new("RGB", size, "black"), VEIL)
    veiled.paste(small.crop(frame), frame)
    ImageDraw.Draw(veiled).rectangle((frame[0], frame[1], frame[2] - 1, frame[3] - 1), outline=FRAME, width=2)
    box = Image.new("RGB", BOX, GROUND)
    box.paste(veiled, ((BOX[0] - size[0]) // 2, (BOX[1] - size[1]) // 2))
    return box


def write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, colour: str, wide: int) -> None:
    """One line of text, shortened in the middle where it is wider than `wide` pixels."""
    font = ImageFont.load_default(TEXT)
    keep = len(text)
    while keep > 4 and pen.textlength(text if keep == len(text) else middle(text, keep), font) > wide:
        keep -= 1
    pen.text(at, text if keep == len(text) else middle(text, keep), colour, font)


def middle(text: str, keep: int) -> str:
    """The text with its middle left out, `keep` characters of it kept."""
    return f"{text[: keep - keep // 3]}...{text[len(text) - keep // 3 :]}"
