"""Aspect-ratio buckets: the few picture sizes of about one area that a batch has, and the crop into them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.pipelines.errors import UsageError

Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the upright picture


@lru_cache(maxsize=64)
def sizes(resolution: int, multiple: int, buckets: bool = True) -> tuple[Size, ...]:
    """All (width, height) of at most resolution^2 pixels, sides divisible by `multiple`, between 1:4 and 4:1.

    Sides go in steps of an eighth of the resolution, 64 pixels at most. With `buckets` off: the square alone.
    UsageError where the resolution is not divisible by `multiple`.
    """
    if resolution % multiple or resolution < multiple:
        low, high = resolution // multiple * multiple, (resolution // multiple + 1) * multiple
        usable = " or ".join(str(n) for n in (low, high) if n)
        raise UsageError(f"resolution {resolution} is not divisible by {multiple}, as this model needs: use {usable}")
    if not buckets:
        return ((resolution, resolution),)
    step = multiple * max(1, min(resolution // 8, 64) // multiple)
    upright = {(width, resolution**2 // width // step * step) for width in range(step, resolution, step)}
    portrait = {(w, h) for w, h in upright if w < h and h <= 4 * w}
    return tuple(sorted({(resolution, resolution), *portrait, *((h, w) for w, h in portrait)}))


def nearest(size: Size, choices: Iterable[Size]) -> Size:
    """The bucket whose aspect ratio is nearest, as |log difference|; the larger area where several are."""
    aspect = math.log(size[0] / size[1])
    return min(choices, key=lambda b: (round(abs(math.log(b[0] / b[1]) - aspect), 9), -b[0] * b[1], b))


def crop_box(size: Size, bucket: Size, at: tuple[float, float] = (0.5, 0.5)) -> Box:
    """The largest part of the picture that has the bucket's aspect ratio.

    at: where it lies along each axis, 0..1; (0.5, 0.5) centres it. Both axes have one scale.
    """
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    width, height = min(size[0], bucket[0] / scale), min(size[1], bucket[1] / scale)
    left, top = (size[0] - width) * at[0], (size[1] - height) * at[1]
    return left, top, min(size[0], left + width), min(size[1], top + height)


def kept(size: Size, bucket: Size) -> float:
    """The share of the picture that its crop keeps."""
    left, top, right, bottom = crop_box(size, bucket)
    return (right - left) * (bottom - top) / (size[0] * size[1])


def place(crop: Literal["center", "random"], generator: torch.Generator) -> tuple[float, float]:
    """Where the crop lies, for `crop_box`."""
    if crop == "center":
        return 0.5, 0.5
    x, y = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return x, y


def fit(image: Image.Image, bucket: Size, box: Box) -> Tensor:
    """The box of the picture at the bucket's size, antialiased: `[C, H, W]` float32 in 0..1."""
    values = np.array(image.resize(bucket, Image.Resampling.LANCZOS, box=box))
    values = values[..., None] if values.ndim == 2 else values
    return torch.from_numpy(values).permute(2, 0, 1).float() / 255
