"""JPEG size: bytes of each picture as a JPEG of quality 95, a measure of detail; and a differentiable count of bits.

Compare at one picture size only. The size depends on Pillow's JPEG library, the count does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._sets import finite, unscored
from studio.pipelines.settings import Part

HALVED = 2  # Pillow's number for 4:2:0, colour at half resolution
BITS = 8000.0  # of a kilobyte
# Annex K of the JPEG standard (ITU T.81): luminance, chrominance
BRIGHT = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
COLOUR = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *(99,) * 32,
)  # fmt: skip
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
NUMBERS = ("jpeg-size", "jpeg-soft-bits")


class Config(Part):
    """How hard the pictures are compressed."""

    quality: int = Field(95, ge=1, le=100, description="JPEG quality; numbers of two qualities do not compare")


class Size:
    """Kilobytes (1000 bytes) of each picture as a JPEG. Not differentiable."""

    differentiable = False

    def __init__(self, quality: int) -> None:
        self.quality = quality
        how = f"rounded to bytes, Pillow JPEG quality {quality}, 4:2:0, at its own size"
        self.about = About("jpeg size", "", how, f"jpeg {quality} kB", unit="kB", bounds=(0.0, math.inf))

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for `[B, 3, H, W]` in 0..1."""
        found, good = unscored(images), finite(images)
        for row in good.nonzero().flatten().tolist():
            found[row] = kilobytes(images[row], self.quality)
        return found


class SoftBits:
    """Differentiable stand-in: logarithms of the quantised DCT coefficients. It ranks as the size does."""

    differentiable = True

    def __init__(self, quality: int) -> None:
        self.quality = quality
        how = f"YCbCr, colour halved, 8x8 DCT over the JPEG tables of quality {quality}, sum log2(1 + |c|) / 8000"
        group = f"jpeg {quality} soft bits"
        self.about = About("jpeg soft bits", "", how, group, unit="pseudo-kB", bounds=(0.0, math.inf))

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for `[B, 3, H, W]` in 0..1."""
        return torch.where(finite(images), soft_bits(images, self.quality), torch.nan)


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """The exact size and its differentiable stand-in: two groups, never one column."""
    return [Size(config.quality), SoftBits(config.quality)]


def kilobytes(picture: Tensor, quality: int = 95) -> float:
    """Size of a picture `[3, H, W]` in 0..1 as a JPEG, in 1000 bytes."""
    values = (picture.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).numpy())).save(
        file, "JPEG", quality=quality, subsampling=HALVED
    )
    return len(file.getvalue()) / 1000


def soft_bits(images: Tensor, quality: int = 95) -> Tensor:
    """`[B]` for `[B, 3, H, W]` in 0..1: log2(1 + |coefficient|) summed over all blocks, in pseudo-kilobytes."""
    height, width = images.shape[-2:]
    x = F.pad(images.float(), (0, -width % 16, 0, -height % 16), mode="replicate") * 255
    x = torch.einsum("kc,bchw->bkhw", torch.tensor(YCBCR, device=x.device), x)
    bright, colour = x[:, :1] - 128, F.avg_pool2d(x[:, 1:], 2)
    return (bits(bright, table(BRIGHT, quality)) + bits(colour, table(COLOUR, quality))) / BITS


def bits(channels: Tensor, steps: Tensor) -> Tensor:
    """`[B]` for `[B, C, H, W]`, both sides divisible by 8, quantised by steps `[8, 8]`."""
    blocks = channels.unfold(2, 8, 8).unfold(3, 8, 8)
    basis = cosines().to(channels.device)
    coefficients = basis @ blocks @ basis.T / steps.to(channels.device)
    return torch.log2(1 + coefficients.abs()).flatten(1).sum(1)


def table(values: tuple[int, ...], quality: int) -> Tensor:
    """Quantisation steps `[8, 8]` of a quality, as libjpeg scales them."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(values) * scale + 50) // 100).clamp(1, 255).float().view(8, 8)


@cache
def cosines() -> Tensor:
    """The orthonormal 8-point DCT, `[8, 8]`."""
    k, n = torch.arange(8.0).view(8, 1), torch.arange(8.0)
    basis = torch.cos(math.pi * k * (2 * n + 1) / 16) / 2
    return torch.where(k == 0, basis / math.sqrt(2), basis)
