"""Zooms: a picture smaller in its frame, or nearer, with a mask of where it lies and a caption that says so.

Custom Diffusion's augmentation (Kumari et al. 2022, arXiv 2212.04488), as its public code and ClassDiffusion's (arXiv
2405.17532) have it: 66 % of the pictures take 1/3 to 1 of the frame's side and lie anywhere in it, on the middle grey
that is 0 to a network, where nothing is learned; the others are enlarged 1.2 to 1.4 times and cut. Not as there: a
picture keeps its shape; all latents wholly within it teach, even if it is tiny (there, none may: 0 / 0); and each
picture has a few seeded zooms, so that their latents can be cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from studio.pipelines import buckets
from studio.pipelines.buckets import Box, Size
from studio.pipelines.data_order import digest

SHRUNK, SMALL, LARGE = 0.66, (1 / 3, 1.0), (1.2, 1.4)  # the share of small ones, and what is drawn from
FAR, NEAR, FAR_BELOW = ("a far away ", "very small "), ("zoomed in ", "close up "), 0.6
HEADS = ("", *FAR, *NEAR)  # all that a caption may begin with


@dataclass(frozen=True)
class Zoom:
    """scale: the picture's side over its frame's; at: where it lies, or is cut, along each axis, from 0 up to 1 (never
    1 itself); words: what its caption begins with.
    """

    scale: float = 1.0
    at: tuple[float, float] = (0.5, 0.5)
    words: str = ""

    def place(self, frame: Size) -> tuple[slice, slice]:
        """Rows and columns of the frame that the picture takes."""
        sides = [min(side, max(1, round(side * self.scale))) for side in frame]
        left, top = (int(at * (room - side + 1)) for at, room, side in zip(self.at, frame, sides, strict=True))
        return slice(top, top + sides[1]), slice(left, left + sides[0])

    def fit(self, image: Image.Image, frame: Size, box: Box, outside: float) -> Tensor:
        """The box of the picture in the frame, `[C, H, W]` in 0..1, with `outside` where it does not reach."""
        rows, columns = self.place(frame)
        size = columns.stop - columns.start, rows.stop - rows.start
        seen = buckets.fit(image, size, self.cut(box) if self.scale > 1 else box)
        if size == frame:
            return seen
        canvas = torch.full((len(seen), frame[1], frame[0]), outside)
        canvas[:, rows, columns] = seen
        return canvas

    def cut(self, box: Box) -> Box:
        """The part of the box that fills the frame when it is enlarged."""
        width, height = ((box[side + 2] - box[side]) / self.scale for side in (0, 1))
        left, top = box[0] + (box[2] - box[0] - width) * self.at[0], box[1] + (box[3] - box[1] - height) * self.at[1]
        return left, top, min(box[2], left + width), min(box[3], top + height)

    def inside(self, frame: Size) -> Tensor:
        """1 where the picture is and 0 elsewhere, `[1, H, W]`."""
        area = torch.zeros(1, frame[1], frame[0])
        area[(slice(None), *self.place(frame))] = 1
        return area


WHOLE = Zoom()


def draw(*key: object) -> Zoom:
    """The zoom that the key decides."""
    random = Random(digest("zoom", *key))
    scale = random.uniform(*(SMALL if random.random() < SHRUNK else LARGE))
    words = FAR if scale < FAR_BELOW else NEAR if scale > 1 else ("",)
    return Zoom(scale, (random.random(), random.random()), random.choice(words))


def cells(area: Tensor, size: tuple[int, ...]) -> Tensor:
    """Areas `[B, 1, H, W]` at latent size, `[B, 1, h, w]`: 1 for latents wholly within; where none is, their shares."""
    shares = interpolate(area, size, mode="area")
    whole = (shares == 1).float()  # a latent on the edge is made of the grey as well
    return torch.where(whole.amax((1, 2, 3), keepdim=True) > 0, whole, shares)
