"""The previews in a run's folder by step, each beside the base model's picture of the same prompt and seed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

NAME = re.compile(r"(base|pick|\d{6,12})-(\d{2,4})\.png")
BASE, PICK = "base", "pick"


@dataclass(frozen=True)
class Previews:
    """One label's pictures: "000300" for a step, "base", or "pick" for the recommended checkpoint; by their number."""

    label: str
    files: dict[int, Path]

    @property
    def title(self) -> str:
        """`step 300`."""
        names = {BASE: "base model", PICK: "recommended checkpoint"}
        return names.get(self.label) or f"step {int(self.label)}"


def stamp(folder: Path) -> int:
    """Changes when a picture is added to the folder of the previews; 0 without one."""
    try:
        return (folder / "samples").stat().st_mtime_ns
    except OSError:
        return 0


def found(folder: Path) -> tuple[Previews, list[Previews]]:
    """The base model's previews, and the run's own: by step, the recommended checkpoint's last."""
    kept: dict[str, dict[int, Path]] = {}
    try:
        names = sorted(os.listdir(folder / "samples"))
    except OSError:
        names = []
    for name in names:
        if fits := NAME.fullmatch(name):
            kept.setdefault(fits[1], {})[int(fits[2])] = folder / "samples" / name
    base = Previews(BASE, kept.pop(BASE, {}))
    order = sorted(kept, key=lambda label: (label == PICK, label == PICK or int(label)))
    return base, [Previews(label, kept[label]) for label in order]


def pairs(base: Previews, own: Previews | None) -> Iterator[tuple[Path, str]]:
    """Picture and caption, the base model's before the run's, prompt by prompt; what is not there is left out."""
    for number in sorted({*base.files, *(own.files if own else {})}):
        for side in (base, own):
            if side and (path := side.files.get(number)):
                yield path, caption(side.title, path)


def caption(title: str, path: Path) -> str:
    """`step 300: a sks dog in the snow (seed 7)`, as the picture's metadata has it."""
    try:
        prompt, seed = about(path, path.stat().st_mtime_ns)
    except OSError:
        return title
    return f"{title}: {prompt} (seed {seed})" if prompt else title


@lru_cache(maxsize=4096)
def about(path: Path, changed: int) -> tuple[str, str]:
    """Prompt and seed of a picture; '' where it does not say. changed: its time, so that a new one is read anew."""
    try:
        with Image.open(path) as picture:
            return str(picture.info.get("prompt", "")), str(picture.info.get("seed", ""))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return "", ""
