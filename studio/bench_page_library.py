"""A library for the page's benchmark: a toy run that was really trained, many times, each picture painted over."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio.config import make
from studio.pipelines.assets import assets_folder
from studio.train import train

SIDE = 384  # pixels of a picture
STEPS, EVERY = 400, 100
PROMPTS = ("a photo of {trigger} {class_word}", "{trigger} {class_word} in the snow")  # with base: ten pictures a run


def trained(home: Path) -> Path:
    """The folder of the run that the others are copies of."""
    settings = {
        "steps": STEPS,
        "precision": "no",
        "save_every": EVERY,
        "data": {"folder": assets_folder() / "subjects" / "dog", "class_word": "dog"},
        "previews": {"every": EVERY, "steps": 2, "prompts": PROMPTS},
    }
    return train(make("dreambooth", flags={"model": "toy", "run": "run", "runs": home, "settings": settings}))


def library(run: Path, runs: Path, count: int) -> Path:
    """`count` copies of a run, `run-000` and on, in the folder `runs`."""
    for number in range(count):
        folder = runs / f"run-{number:03}"
        shutil.copytree(run, folder)
        for at, picture in enumerate(sorted((folder / "samples").glob("*.png"))):
            paint(picture, number, at)
    return runs


def paint(picture: Path, number: int, at: int) -> None:
    """A picture at `SIDE` pixels, tinted by its run and place, so that no cache serves two of them; its words stay."""
    with Image.open(picture) as file:
        said, large = dict(getattr(file, "text", {})), file.convert("RGB").resize((SIDE, SIDE))
    info = PngInfo()
    for key, text in said.items():
        info.add_itxt(key, text)
    tint = Image.new("HSV", large.size, (37 * number % 256, 160, 130 + 10 * at)).convert("RGB")
    large = Image.blend(large, tint, 0.5)
    large.putpixel((0, 0), (number % 256, number // 256, at))
    large.save(picture, pnginfo=info, compress_level=1)
