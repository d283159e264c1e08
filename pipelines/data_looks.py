"""What a picture looks like, in a few bytes: which pictures of a set are nearly the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE, BITS = 8, 128
STEP = 2  # grey levels a difference must exceed: an even wall must not hash its noise
MOST_BITS = 10  # of 128 that may differ between near-duplicates
MOST_COLOUR = 12.0  # mean difference of 4x4 colour thumbnails, of 255, between near-duplicates
ROWS = 1024  # pictures compared with all others at a time


@dataclass(frozen=True)
class Looks:
    """dHash in both directions (128 bits, Krawetz 2013) and a 4x4 RGB thumbnail."""

    bits: bytes
    colours: bytes


@dataclass(frozen=True)
class Alike:
    """Picture number `later` looks like number `earlier`: so many of 128 bits differ."""

    later: int
    earlier: int
    bits: int


def looks(image: Image.Image) -> Looks:
    """The fingerprint of an RGB picture."""
    grey = image.convert("L").resize((SIDE + 1, SIDE + 1), Image.Resampling.BOX)
    values = np.asarray(grey).astype(np.int16)
    across = values[:-1, 1:] - values[:-1, :-1] > STEP
    down = values[1:, :-1] - values[:-1, :-1] > STEP
    bits = np.packbits(np.concatenate([across.ravel(), down.ravel()]))
    return Looks(bits.tobytes(), image.resize((4, 4), Image.Resampling.BOX).tobytes())


def near_duplicates(all_looks: Sequence[Looks]) -> Iterator[Alike]:
    """For each picture that looks like an earlier one: the nearest, the first of several."""
    if not all_looks:
        return
    bits = np.array([np.frombuffer(one.bits, np.uint8) for one in all_looks]).reshape(len(all_looks), -1)
    signs = np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1
    colours = np.array([np.frombuffer(one.colours, np.uint8) for one in all_looks], np.float32)
    for start in range(0, len(signs), ROWS):
        distances = (BITS - signs[start : start + ROWS] @ signs.T) / 2
        for row, distance in enumerate(distances.round().astype(int), start):
            near = np.flatnonzero(distance[:row] <= MOST_BITS)
            for column in near[np.argsort(distance[near], kind="stable")]:
                if np.abs(colours[row] - colours[column]).mean() <= MOST_COLOUR:
                    yield Alike(row, int(column), int(distance[column]))
                    break
