"""The previews in a run's folder by step, each beside the base model's picture of the same prompt and seed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from studio.reward_course import Course

NAME = re.compile(r"(base|pick|\d{6,12})-(\d{2,4})\.png")
BASE, PICK = "base", "pick"
TITLES = {BASE: "base model", PICK: "recommended checkpoint"}


@dataclass(frozen=True)
class Previews:
    """One label's pictures: "000300" for a step, "base", or "pick" for the recommended checkpoint; by their number.

    back: the step whose weights drew them, where a guard had ended the run by then.
    """

    label: str
    files: dict[int, Path]
    back: int | None = None

    @property
    def title(self) -> str:
        """`step 300`; `step 300, back at step 200`."""
        if self.label in TITLES:
            return TITLES[self.label]
        return f"step {int(self.label)}" + (f", back at step {self.back}" if self.back is not None else "")


def stamp(folder: Path) -> int:
    """Changes when a picture is added to the folder of the previews; 0 without one."""
    try:
        return (folder / "samples").stat().st_mtime_ns
    except OSError:
        return 0


def found(folder: Path, course: Course | None = None) -> tuple[Previews, list[Previews]]:
    """The base model's previews, and the run's own: by step, the recommended checkpoint's last.

    course: of a run by rewards; what it drew after its guard had ended it is of the step that it went back to.
    """
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
    end = f"{course.stop[0]:06}" if course is not None and course.stop is not None else ""
    back = course.back if course is not None else None
    return base, [Previews(label, kept[label], back if label == end else None) for label in order]


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
