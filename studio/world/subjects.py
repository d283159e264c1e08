"""The personalization benchmark: held-out individuals (animated Fluent emoji) and held-out styles (whole families).

Each lies in `assets/subjects/NAME/` in the layout that `studio train --data` reads: `train/` has pictures with
captions and masks, `reference/` further pictures of the same individual or style for judging, and `subject.json`
says what it is and where it comes from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from studio.world import concepts, scenes, sprites

PIXELS = 128
TRAIN_GROUNDS = ("red", "teal", "white", "purple", "yellow")  # prompts about other colours stay unseen
STYLE_CONCEPTS = [
    "dog",
    "cat",
    "fox",
    "tiger",
    "rabbit",
    "penguin",
    "octopus",
    "turtle",
    "rose",
    "cactus",
    "apple",
    "banana",
    "pizza",
    "car",
    "airplane",
    "house",
    "umbrella",
    "gift",
    "bell",
    "guitar",
    "camera",
    "crown",
    "mushroom",
    "owl",
]


def frames(file: Path) -> list[Image.Image]:
    """All frames of an animation as RGBA."""
    with Image.open(file) as movie:
        found = []
        for index in range(getattr(movie, "n_frames", 1)):
            movie.seek(index)
            found.append(movie.convert("RGBA"))
    return found


def far_apart(pictures: list[Image.Image], count: int) -> list[int]:
    """Indices of `count` pictures that differ most: each next one is the farthest from those chosen."""
    small = np.stack([np.asarray(p.convert("RGBa").resize((32, 32)), np.float32).ravel() for p in pictures])
    chosen, distance = [0], np.full(len(small), np.inf)
    while len(chosen) < min(count, len(small)):
        distance = np.minimum(distance, np.square(small - small[chosen[-1]]).mean(1))
        chosen.append(int(distance.argmax()))
    return chosen


def animation(code: str, work: Path) -> Path:
    """The animated Fluent emoji of a code point, out of the four npm packages that share them."""
    for number in (1, 2, 3, 4):
        folder = sprites.fetch(f"@lobehub/fluent-emoji-anim-{number}", work) / "assets"
        for name in (code, f"{code}-fe0f"):
            if (folder / f"{name}.webp").exists():
                return folder / f"{name}.webp"
    raise FileNotFoundError(f"no animated Fluent emoji has the code point {code}")


def place(sprite: Image.Image, ground: str, rng: Random) -> tuple[Image.Image, Image.Image]:
    """A sprite on a background colour, and its mask; both `PIXELS` square."""
    box = sprite.getchannel("A").getbbox() or (0, 0, *sprite.size)
    sprite, extent = sprite.crop(box), round(rng.uniform(0.6, 0.82) * PIXELS)
    scale = extent / max(sprite.size)
    sprite = sprite.resize((max(1, round(sprite.width * scale)), max(1, round(sprite.height * scale))))
    left, top = ((PIXELS - side) // 2 + rng.randint(-6, 6) for side in sprite.size)
    picture = Image.new("RGB", (PIXELS, PIXELS), concepts.BACKGROUNDS[ground])
    picture.paste(sprite, (left, top), sprite)
    mask = Image.new("L", (PIXELS, PIXELS))
    mask.paste(sprite.getchannel("A"), (left, top))
    return picture, mask


def write(folder: Path, items: list[tuple[Image.Image, str]], grounds: tuple[str, ...], seed: int) -> None:
    """Save sprites with their captions and masks; `{ground}` in a caption becomes the background's name."""
    rng = Random(seed)
    (folder / "masks").mkdir(parents=True)
    for number, ((sprite, caption), ground) in enumerate(zip(items, cycle(grounds), strict=False), 1):
        picture, mask = place(sprite, ground, rng)
        picture.save(folder / f"{number:02}.png", optimize=True)
        mask.save(folder / "masks" / f"{number:02}.png", optimize=True)
        said = caption.replace("a {ground}", f"{scenes.article(ground)} {ground}")
        (folder / f"{number:02}.txt").write_text(f"{said}\n")


def hashes(pictures: list[Image.Image]) -> list[str]:
    """Content hashes of sprites at the base's sprite size, comparable with `assets/base/sprites.txt`."""
    return [
        sha256(p.resize((sprites.SIZE, sprites.SIZE), Image.Resampling.LANCZOS).tobytes()).hexdigest() for p in pictures
    ]


def subject(name: str, work: Path, target: Path) -> None:
    """One individual: five frames to learn from, six other frames to judge by."""
    code, word = concepts.SUBJECTS[name]
    movie = frames(animation(code, work))
    order = far_apart(movie, 11)
    order = [order[i] for i in sorted(range(len(order)), key=lambda i: (i % 2, i))]
    learn, judge = order[:5], order[5:]
    caption = "a {trigger} {class_word} on a {ground} background"
    others = tuple(c for c in concepts.BACKGROUNDS if c not in TRAIN_GROUNDS)
    write(target / "train", [(movie[i], caption) for i in learn], TRAIN_GROUNDS, seed=1)
    write(target / "reference", [(movie[i], caption) for i in judge], others, seed=2)
    card(target, name, "subject", word, "@lobehub/fluent-emoji-anim, MIT, Microsoft (Fluent Emoji)", hashes(movie))


def style(name: str, work: Path, target: Path) -> None:
    """One style: up to twelve drawings to learn from, real drawings of other concepts to judge by."""
    package, licence = concepts.HELD_OUT_STYLES[name]
    words = {word: code for word, code in concepts.concepts().items() if word in STYLE_CONCEPTS}
    drawn = sprites.family(package, words, work)
    items = [(picture, f"a {{trigger}} style {word} on a {{ground}} background") for word, picture in drawn.items()]
    write(target / "train", items[::2], TRAIN_GROUNDS, seed=3)
    write(target / "reference", items[1::2], TRAIN_GROUNDS[::-1], seed=4)
    card(target, name, "style", "", f"{package}, {licence}", hashes(list(drawn.values())))


def card(target: Path, name: str, kind: str, word: str, source: str, content: list[str]) -> None:
    """`subject.json`: kind, class word, source with licence, and the content hashes of its drawings."""
    text = {"name": name, "kind": kind, "class_word": word, "source": source, "sha256": sorted(set(content))}
    (target / "subject.json").write_text(json.dumps(text, indent=1) + "\n")


def build(work: Path, target: Path) -> Iterator[str]:
    """Write every subject and style below `target`, yielding names; finished ones are kept."""
    jobs = [(name, subject) for name in concepts.SUBJECTS] + [
        (f"style-{name}", lambda _, w, t, n=name: style(n, w, t)) for name in concepts.HELD_OUT_STYLES
    ]
    for name, make in jobs:
        if not (target / name / "subject.json").exists():
            shutil.rmtree(target / name, ignore_errors=True)
            make(name, work, target / name)
        yield name
