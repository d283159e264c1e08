"""All pictures of a run, newest first, with what they say of themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from studio.pipelines.confine import is_inside

KINDS = {".png", ".jpg", ".jpeg", ".webp"}
ASIDE = {"checkpoints"}  # folders that hold no pictures
SHEETS = {"README.jpg"}  # what is made of pictures that are there
LONG = 90  # letters of a caption


def pictures(folder: Path) -> list[Path]:
    """Every picture in a run's folder and below, the newest first; links that lead out are left alone."""
    found = sorted(walk(folder), key=lambda row: (-row[0], row[1]))
    return [path for _, path in found]


def walk(folder: Path) -> Iterator[tuple[int, Path]]:
    """(time of change, picture), in any order."""
    for place, names, files in os.walk(folder):
        names[:] = [name for name in names if name not in ASIDE and not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            shown = path.suffix.lower() in KINDS and name not in SHEETS and not name.startswith(".")
            if shown and (not path.is_symlink() or is_inside(folder, path)):  # folders behind links are not walked
                yield path.stat().st_mtime_ns, path


def about(picture: Path) -> dict[str, str]:
    """What a PNG says of itself: prompt, seed, sampler; {} where it says nothing."""
    try:
        with Image.open(picture) as file:
            said = getattr(file, "text", {})
            return {str(key): str(value) for key, value in said.items()}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return {}


def caption(picture: Path, folder: Path) -> str:
    """A picture's prompt and seed, and where it is from: `a dog on a beach, seed 4, step 300`."""
    said, stem = about(picture), picture.stem
    step, _, shot = stem.partition("-")
    made = f"step {int(step)}" if step.isdigit() and shot else "base model" if step == "base" and shot else ""
    where = made if picture.parent == folder / "samples" and made else picture.relative_to(folder).as_posix()
    seed = f"seed {said['seed']}" if "seed" in said else ""
    prompt = " ".join(said.get("prompt", "").split())
    prompt = prompt if len(prompt) <= LONG else f"{prompt[: LONG - 1]}\N{HORIZONTAL ELLIPSIS}"
    return ", ".join(filter(None, (prompt, seed, where)))
