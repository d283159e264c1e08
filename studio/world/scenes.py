"""Scenes: one sprite, or two side by side, on a named background colour, with an exact caption and ground truth."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageOps

from studio.world import concepts
from studio.world.sprites import Sprite, styles

SIDES, SIZES = ("left", "center", "right"), ("small", "medium", "large")
EXTENT = {"small": (0.4, 0.47), "medium": (0.54, 0.64), "large": (0.76, 0.9)}  # share of the picture's side


PLURAL = {"grapes", "cherries", "fries", "glasses", "scissors", "dice"}


@dataclass(frozen=True)
class Placed:
    """A sprite in a scene. `x`, `y`: centre, `extent`: side, all as shares of the picture; `tint`: colour or ''."""

    sprite: Sprite
    side: str
    size: str
    x: float
    y: float
    extent: float
    tint: str = ""
    mirrored: bool = False


@dataclass(frozen=True)
class Scene:
    """Ground truth of one picture: its objects from left to right and its background colour name."""

    objects: tuple[Placed, ...]
    background: str
    seed: int

    def caption(self) -> str:
        """A caption that says exactly what is in the scene, worded by the scene's seed."""
        return Writer(self, Random(self.seed)).caption()

    def render(self, folder: Path, pixels: int = 64) -> np.ndarray:
        """The picture, uint8 `[pixels, pixels, 3]`; `folder` holds the sprites."""
        return paint(self, folder, pixels)


class Draw:
    """Draws random scenes from a set of sprites; equal seeds give equal scenes."""

    def __init__(self, sprites: Sequence[Sprite]) -> None:
        self.by_style: dict[str, dict[str, Sprite]] = {}
        for sprite in sprites:
            self.by_style.setdefault(sprite.style, {})[sprite.concept] = sprite

    def __call__(self, seed: int, pair: bool | None = None) -> Scene:
        """The scene of this seed; `pair` forces one (False) or two (True) objects."""
        rng = Random(seed)
        style = rng.choice(list(self.by_style))
        two = rng.random() < 0.3 if pair is None else pair
        chosen = rng.sample(list(self.by_style[style]), 2 if two else 1)
        objects = tuple(
            self.place(rng, self.by_style[style][word], ("left", "right")[i] if two else "")
            for i, word in enumerate(chosen)
        )
        return Scene(objects, rng.choice(list(concepts.BACKGROUNDS)), seed)

    @staticmethod
    def place(rng: Random, sprite: Sprite, side: str) -> Placed:
        """Where one sprite goes. Two objects are small or medium, so that both fit."""
        pair = bool(side)
        size = rng.choice(SIZES[:2] if pair else SIZES)
        side = side or ("center" if size == "large" or rng.random() < 0.5 else rng.choice(("left", "right")))
        extent = rng.uniform(*EXTENT[size]) * (0.82 if pair and size == "medium" else 1.0)
        margin = extent / 2 + 0.02
        x = {"left": rng.uniform(margin, max(margin, 0.28)), "right": 0.0, "center": rng.uniform(0.45, 0.55)}[side]
        if side == "right":
            x = 1 - rng.uniform(margin, max(margin, 0.28))
        tint = rng.choice(concepts.TINTS) if not pair and rng.random() < 0.12 else ""
        mirrored = rng.random() < 0.25
        return Placed(sprite, side, size, x, rng.uniform(0.44, 0.56), extent, tint, mirrored)


class Writer:
    """Words for one scene. Style, size, side and background are each left out now and then, never stated wrongly."""

    def __init__(self, scene: Scene, rng: Random) -> None:
        self.scene, self.rng = scene, rng

    def caption(self) -> str:
        style = self.style()
        nouns = [self.noun(placed) for placed in self.scene.objects]
        body = self.join(nouns)
        ground = self.ground()
        form = self.rng.random()
        if not style:
            return f"{body}{ground}"
        return f"{style} of {body}{ground}" if form < 0.8 else f"{body}{ground}, {style}"

    def style(self) -> str:
        style = self.scene.objects[0].sprite.style
        phrases = styles("full")[style][1]
        return "" if self.rng.random() < 0.15 else self.rng.choice(phrases)

    def ground(self) -> str:
        if self.rng.random() < 0.08:
            return ""
        words = ("on a {} background", "on {}", "in front of a {} wall", "with a {} background", "{} background")
        phrase = self.rng.choices(words, (5, 2, 1, 2, 1))[0]
        comma = phrase.startswith("{}") or self.rng.random() < 0.2
        said = phrase.format(self.scene.background)
        return (", " if comma else " ") + re.sub(r"\ba (?=orange)", "an ", said)

    def noun(self, placed: Placed) -> str:
        word = placed.sprite.concept
        if self.rng.random() < 0.06:
            word = concepts.kind_of(word)
        adjectives = [placed.size] if placed.size != "medium" and self.rng.random() < 0.75 else []
        adjectives = [
            self.rng.choice(("small", "tiny", "little") if a == "small" else ("large", "big")) for a in adjectives
        ]
        adjectives += [placed.tint] if placed.tint else []
        phrase = " ".join([*adjectives, word])
        return phrase if word in PLURAL else f"{article(phrase)} {phrase}"

    def join(self, nouns: list[str]) -> str:
        if len(nouns) == 1:
            side = self.scene.objects[0].side
            said = self.rng.random() < (0.3 if side == "center" else 0.85)
            where = {"center": " in the center", "left": " on the left", "right": " on the right"}[side]
            return nouns[0] + (where if said else "")
        left, right = nouns
        return self.rng.choices(
            (
                f"{left} and {right}",
                f"{left} on the left and {right} on the right",
                f"{left} to the left of {right}",
                f"{right} to the right of {left}",
                f"{left} next to {right}",
            ),
            (4, 3, 1, 1, 1),
        )[0]


def article(phrase: str) -> str:
    """'a' or 'an', by the first letter."""
    return "an" if phrase[0] in "aeiou" and not phrase.startswith("uni") else "a"


@lru_cache(maxsize=8192)
def sprite_array(path: Path, tint: str) -> Image.Image:
    """A sprite as premultiplied RGBA, in one hue when tinted (its lights and darks are kept)."""
    picture = Image.open(path).convert("RGBA")
    if tint:
        alpha, colour = picture.getchannel("A"), concepts.BACKGROUNDS[tint]
        gray = ImageOps.autocontrast(picture.convert("L"), cutoff=2, mask=alpha.point(lambda a: 255 if a > 127 else 0))
        picture = ImageOps.colorize(gray, black=tuple(c // 3 for c in colour), mid=colour, white="white").convert(
            "RGBA"
        )
        picture.putalpha(alpha)
    return picture.convert("RGBa")


def paint(scene: Scene, folder: Path, pixels: int) -> np.ndarray:
    """Composite the scene's sprites on its background; colours jitter a little, so a name is a range."""
    rng = np.random.default_rng(scene.seed)
    ground = np.clip(np.array(concepts.BACKGROUNDS[scene.background]) + rng.integers(-7, 8, 3), 0, 255)
    canvas = np.empty((pixels, pixels, 3), np.float32)
    canvas[:] = ground
    for placed in scene.objects:
        side = max(8, round(placed.extent * pixels))
        sprite = sprite_array(folder / placed.sprite.path, placed.tint).resize((side, side), Image.Resampling.BOX)
        array = np.asarray(ImageOps.mirror(sprite) if placed.mirrored else sprite, np.float32)
        top = min(max(round(placed.y * pixels - side / 2), 0), pixels - side)
        left = min(max(round(placed.x * pixels - side / 2), 0), pixels - side)
        spot = canvas[top : top + side, left : left + side]
        spot *= 1 - array[..., 3:] / 255
        spot += array[..., :3]
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def pictures(draw: Draw, folder: Path, seeds: Iterator[int], pixels: int = 64) -> Iterator[tuple[np.ndarray, Scene]]:
    """(picture, scene) for each seed, in order."""
    for seed in seeds:
        scene = draw(seed)
        yield scene.render(folder, pixels), scene
