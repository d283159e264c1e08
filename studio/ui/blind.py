"""A blind A/B test for the user's own eyes: the sides are shuffled, kept on disk, and told at the end."""

from __future__ import annotations

import json
import random
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from PIL import Image

from studio.pipelines.errors import DataError, UsageError
from studio.ui.blind_count import Counts
from studio.ui.blind_pairs import Pair, Side
from studio.ui.library_thumbs import flat

FOLDER = ".blind"
FILE, VERSION = "test.json", 1
KEY = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
CHOICES = ("left", "right", "same")
SHOWN = 512  # pixels of the larger side


@dataclass(frozen=True)
class Question:
    """A pair as it is shown. number: 0 is the first; left, right: files that say nothing of where they are from."""

    number: int
    prompt: str
    left: Path
    right: Path


@dataclass
class Trial:
    """A test on the disk. turned: whether the first side stands on the right, by pair; answers: left, right, same, or
    "" for none yet; open: whether the sides were told, after which nothing is answered.
    """

    folder: Path
    sides: tuple[str, str]
    prompts: list[str]
    turned: list[bool]
    answers: list[str]
    open: bool = False

    @property
    def key(self) -> str:
        """Its name."""
        return self.folder.name

    def question(self) -> Question | None:
        """The next pair without an answer; None at the end."""
        number = next((at for at, answer in enumerate(self.answers) if not answer), None)
        if number is None or self.open:
            return None
        left, right = (self.folder / f"{number:03}-{side}.png" for side in ("left", "right"))
        return Question(number, self.prompts[number], left, right)

    def counts(self) -> Counts:
        """What was answered, the sides turned back."""
        chosen = [(answer == "left") != turned for answer, turned in zip(self.answers, self.turned, strict=True)]
        made = [first for first, answer in zip(chosen, self.answers, strict=True) if answer in ("left", "right")]
        first, left = sum(made), self.answers.count("left")
        return Counts(first, len(made) - first, self.answers.count("same"), left, len(self.answers))

    def ended(self) -> bool:
        """Whether the sides may be told."""
        return self.open or all(self.answers)

    def verdict(self) -> str:
        """The result in words. Raises UsageError before the end: knowing the sides would spoil what is left."""
        if not self.ended():
            raise UsageError("the sides are told when all pairs are answered; End the test tells them now")
        return self.counts().verdict(*self.sides)

    def write(self) -> None:
        """The file, whole or as it was."""
        said = {key: value for key, value in asdict(self).items() if key != "folder"} | {"version": VERSION}
        aside = self.folder / f".{FILE}.part"
        aside.write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n", "utf-8")
        aside.replace(self.folder / FILE)


def begin(
    runs: Path, sides: tuple[Side, Side], found: Sequence[Pair], most: int = 20, seed: int | None = None
) -> Trial:
    """A new test of at most `most` pairs: in random order, each side on the left in half of them.

    The pictures are copied at one size without what PNGs say of themselves, so that neither name nor size tells.
    """
    if not found:
        raise UsageError("there are no pairs to compare: evaluate both sides first")
    dice = random.Random(secrets.randbits(64) if seed is None else seed)
    chosen = dice.sample(list(found), min(most, len(found)))
    turned = [at % 2 == 1 for at in range(len(chosen))]
    if dice.random() < 0.5:  # an odd number has one more of one kind
        turned = [not value for value in turned]
    dice.shuffle(turned)
    folder = runs / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    for number, (pair, right) in enumerate(zip(chosen, turned, strict=True)):
        shown = reversed(pair.pictures) if right else pair.pictures
        for side, picture in zip(("left", "right"), neutral(*shown), strict=True):
            picture.save(folder / f"{number:03}-{side}.png")
    test = Trial(folder, (sides[0].label, sides[1].label), [pair.prompt for pair in chosen], turned, [""] * len(chosen))
    test.write()
    return test


def neutral(left: Path, right: Path) -> tuple[Image.Image, Image.Image]:
    """Two pictures at the smaller one's size, enlarged where that is small; no metadata."""
    try:
        with Image.open(left) as one, Image.open(right) as other:
            mine, theirs = flat(one), flat(other)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"a picture of the pair cannot be read ({error}): evaluate again") from None
    side = min(max(mine.size), max(theirs.size))
    factor = max(1, SHOWN // side)
    first, second = (fitted(picture, side, factor) for picture in (mine, theirs))
    return first, second


def fitted(picture: Image.Image, side: int, factor: int) -> Image.Image:
    """A fresh picture of so many pixels on its larger side, each as a block of `factor`."""
    picture.thumbnail((side, side))
    size = picture.width * factor, picture.height * factor
    bare = Image.new("RGB", picture.size)
    bare.paste(picture)
    return bare.resize(size, Image.Resampling.NEAREST)


def read(runs: Path, key: str) -> Trial:
    """A test of the disk. Raises UsageError where there is none."""
    folder = runs / FOLDER / key
    if not KEY.fullmatch(key or "") or not (folder / FILE).is_file():
        raise UsageError("this blind test is not there any more: begin a new one")
    try:
        said: dict[str, Any] = json.loads((folder / FILE).read_text("utf-8"))
        first, second = said["sides"]
        lists = {name: list(said[name]) for name in ("prompts", "turned", "answers")}
        return Trial(folder, (str(first), str(second)), open=bool(said["open"]), **lists)
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{folder / FILE} cannot be read: begin a new test") from None


def answer(runs: Path, key: str, number: int, choice: str) -> Trial:
    """Keeps an answer, once: a second page that still shows the pair changes nothing. Returns the test as it is now."""
    if choice not in CHOICES:
        raise UsageError(f"answer = '{choice}': one of {', '.join(CHOICES)}")
    read(runs, key)
    with FileLock(runs / FOLDER / key / ".lock", timeout=10):
        test = read(runs, key)
        if not test.open and 0 <= number < len(test.answers) and not test.answers[number]:
            test.answers[number] = choice
            test.write()
    return test


def reveal(runs: Path, key: str) -> Trial:
    """Ends a test: the sides may be told, and nothing is answered any more."""
    read(runs, key)
    with FileLock(runs / FOLDER / key / ".lock", timeout=10):
        test = read(runs, key)
        test.open = True
        test.write()
    return test


def trials(runs: Path) -> list[Trial]:
    """All tests, the newest first; damaged ones are left out."""
    found = []
    for folder in sorted((runs / FOLDER).glob("*"), reverse=True):
        try:
            found.append(read(runs, folder.name))
        except UsageError:
            continue
    return found
