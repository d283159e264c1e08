"""A folder of 20 files, each kind of damage once: for the data doctor. `python -m tests.broken_folder FOLDER`."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path

from PIL import Image, ImageDraw

from studio.pipelines.assets import assets_folder

ORIENTATION, TURNED_RIGHT = 0x0112, 6
LONG = "a photo of {trigger} fox in a wide meadow, with tall grass, " + "a red flower, a grey stone, " * 8 + "at dusk"
EXPECTED: dict[str, tuple[str, str]] = {  # file: state, a part of what is said about it
    ".hidden.jpg": ("left out", "hidden"),
    "alpha.png": ("used", "transparent, put on white"),
    "alpha.txt": ("beside", "caption of alpha.png: is empty"),
    "bomb.png": ("left out", "decompression bomb"),
    "corrupt.png": ("left out", "cannot be read"),
    "dead-link.jpg": ("left out", "a link to nothing"),
    "good.jpg": ("used", "mask 0% white"),
    "good.mask.png": ("beside", "mask of good.jpg"),
    "good.txt": ("beside", "caption of good.jpg"),
    "good_again.jpg": ("used", "the same as good.jpg"),
    "metadata.jsonl": ("beside", "metadata"),
    "near.jpg": ("used", "looks like good.jpg"),
    "near.mask.png": ("left out", "its shape (64, 128) is not the picture's (340, 255)"),
    "orphan.txt": ("left out", "no picture has this name"),
    "script.png": ("left out", "not a picture"),
    "tiny.png": ("used", "small: it blurs"),
    "truncated.jpg": ("left out", "truncated"),
    "turned.jpg": ("used", "EXIF: turned right"),
    "turned.txt": ("beside", "caption of turned.jpg: cannot be read (not UTF-8 text)"),
    "zero.jpg": ("left out", "empty file"),
}


def scene(size: tuple[int, int], sky: str, ground: str, at: tuple[float, float], high: float) -> Image.Image:
    """A fox on a meadow. at: its middle, high: its height, as shares of the picture."""
    picture = Image.new("RGB", size, sky)
    pen, (wide, tall) = ImageDraw.Draw(picture), size
    pen.ellipse((wide * 0.72, tall * 0.08, wide * 0.72 + tall * 0.2, tall * 0.28), fill="#ffe08a")
    pen.ellipse((-wide * 0.4, tall * 0.55, wide * 1.3, tall * 1.9), fill=ground)
    fox, mask = cut_out(round(tall * high))
    picture.paste(fox, (round(wide * at[0] - fox.width / 2), round(tall * at[1] - fox.height / 2)), mask)
    return picture


def cut_out(side: int) -> tuple[Image.Image, Image.Image]:
    """The fox that comes with the studio, and its mask."""
    place = assets_folder() / "subjects" / "fox" / "train"
    with Image.open(place / "01.png") as fox, Image.open(place / "masks" / "01.png") as mask:
        return fox.convert("RGB").resize((side, side)), mask.convert("L").resize((side, side))


def make(folder: Path) -> Path:
    """Write the 20 files."""
    folder.mkdir(parents=True, exist_ok=True)
    good = scene((400, 300), "#8ecbf0", "#5fa55a", (0.4, 0.6), 0.6)
    good.save(folder / "good.jpg", quality=90)
    whole = (folder / "good.jpg").read_bytes()
    (folder / "good_again.jpg").write_bytes(whole)
    good.resize((340, 255)).point(lambda value: min(255, value + 6)).save(folder / "near.jpg", quality=60)
    upright = scene((270, 480), "#f2b88a", "#7d6a9c", (0.5, 0.7), 0.42)
    turn = Image.Exif()
    turn[ORIENTATION] = TURNED_RIGHT
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=turn, quality=90)
    fox, mask = cut_out(256)
    fox.putalpha(mask)
    fox.save(folder / "alpha.png")
    scene((16, 12), "#c0d8c0", "#4f7f7a", (0.6, 0.5), 0.9).save(folder / "tiny.png")
    unreadable(folder, whole)
    words(folder)
    Image.new("L", (128, 96), 0).save(folder / "good.mask.png")
    Image.new("L", (64, 128), 255).save(folder / "near.mask.png")
    return folder


def unreadable(folder: Path, whole: bytes) -> None:
    """The files that no picture can be read from."""
    (folder / ".hidden.jpg").write_bytes(whole)
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.jpg").touch()
    (folder / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    (folder / "dead-link.jpg").symlink_to("nowhere.jpg")
    (folder / "bomb.png").write_bytes(png(60_000, 60_000, zlib.compress(bytes(1000))))
    (folder / "corrupt.png").write_bytes(png(64, 64, b"these are no compressed pixels"))


def words(folder: Path) -> None:
    """Captions: too long, empty, in Latin-1, without a picture, without the trigger, and of a missing picture."""
    (folder / "good.txt").write_text(LONG, encoding="utf-8")
    (folder / "alpha.txt").write_text("\n", encoding="utf-8")
    (folder / "turned.txt").write_bytes("ein {trigger} fox im Gr\xfcnen".encode("latin-1"))
    (folder / "orphan.txt").write_text("a photo of {trigger} fox", encoding="utf-8")
    rows = {"near.jpg": "an animal under a pale sky", "gone.png": "a photo of {trigger} fox"}
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG that says it is so wide and high, whatever its pixels are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
