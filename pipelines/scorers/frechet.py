"""Frechet distance and KID of the pictures to the references as two sets: how far the whole distribution moved.

By the features of a named encoder (DINOv2, CLIP or the embedded judges), resized antialiased as clean-fid does (Parmar
et al., CVPR 2022). That is not the FID of the literature, whose Inception network is none of these: never compare them.
The Frechet distance wants thousands of pictures a side and is refused below the number of features; KID (Binkowski et
al., arXiv:1801.01401) is unbiased at any number. Both are for drift, the base model's pictures as references; the few
pictures of a subject say nothing here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders.base import Encoder, given
from studio.pipelines.errors import DataError
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._sets import View, unscored

SEED = 0  # of KID's subsets
NUMBERS = ("frechet", "kid")


class Config(View):
    """Whose features, and how the sets are sampled."""

    few: Annotated[
        bool, Field(description="Give a Frechet distance of fewer pictures than features too: biased upwards")
    ] = False
    subsets: Annotated[
        int, Field(ge=2, description="Random subsets for KID's error, and of large sets for KID itself")
    ] = 100
    most: Annotated[
        int, Field(ge=2, description="Most pictures that KID takes at once; of more it averages random subsets")
    ] = 1000


class Kid(NamedTuple):
    """value: unbiased; error: its standard error."""

    value: float
    error: float


class SetDistance(ABC):
    """One number for all pictures, the same in every row; rows that cannot be scored are NaN and not in the sets."""

    differentiable = False

    def __init__(
        self, name: str, how: str, config: Config, encoder: Encoder, bounds: tuple[float, float] | None = None
    ) -> None:
        self.config, self.encoder = config, encoder
        group = f"{name}: {how}, unit features x sqrt(D), {encoder.id}"
        self.about = About(name, encoder.id, encoder.preprocessing, group, "lower", "set", ("references",), "", bounds)

    def both(self, images: Tensor, references: Sequence[Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Features `[n, D]` of the good pictures and of the references, and which pictures `[B]` are good."""
        near = given(references, self.about.name)
        with torch.no_grad():
            x, y = (self.encoder.image_features(pictures) for pictures in (list(images), near))
        good, scale = x.isfinite().all(1), x.shape[1] ** 0.5  # a mean square of 1, as KID's kernel expects
        return x[good] * scale, y * scale, good

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for `[B, 3, H, W]` in 0..1. Raises DataError, ModelError."""
        x, y, good = self.both(images, references)
        found = unscored(images)
        found[good.to(found.device)] = self.distance(x, y)
        return found

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor) -> float:
        """Of two sets of features `[N, D]` and `[M, D]`."""


class Frechet(SetDistance):
    """Frechet distance of the two Gaussians. Raises DataError for fewer pictures than features, unless `few`."""

    def distance(self, x: Tensor, y: Tensor) -> float:
        """Of two sets of features."""
        least, features = min(len(x), len(y)), x.shape[1]
        if least < (2 if self.config.few else features):
            raise DataError(
                f"{self.about.name} over {features} features needs {features} pictures a side or more, "
                f"there are {len(x)} and {len(y)}: read kid, make more pictures, or set few = true"
            )
        return frechet(x, y)


class Kernel(SetDistance):
    """KID: unbiased squared maximum mean discrepancy, near 0 for two halves of one set, and sometimes below."""

    def distance(self, x: Tensor, y: Tensor) -> float:
        """Of two sets of features."""
        return kid(x, y, self.config.subsets, self.config.most).value

    def interval(self, images: Tensor, references: Sequence[Tensor] | None) -> tuple[float, float]:
        """95 % error bar of the number, which no bootstrap over its equal rows can give. Raises as the call."""
        x, y, _ = self.both(images, references)
        value, error = kid(x, y, self.config.subsets, self.config.most)
        return value - 1.96 * error, value + 1.96 * error


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """Frechet distance and KID; nothing is read yet."""
    encoder = config.open(device, dtype)
    return [
        Frechet("frechet", "Gaussians", config, encoder, (0.0, math.inf)),
        Kernel("kid", "(x.y/D + 1)^3, unbiased", config, encoder),
    ]


def frechet(x: Tensor, y: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of features `[n, D]`, `[m, D]`, two rows or more each."""
    x, y = x.double(), y.double()
    roots = [root(rows) for rows in (x, y)]
    # S = R'R, so the eigenvalues of S1 S2 are the squared singular values of R1 R2': no root of a matrix is needed
    common = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = sum((part.square().sum() for part in roots), torch.zeros((), dtype=x.dtype, device=x.device))
    return max(0.0, float((x.mean(0) - y.mean(0)).square().sum() + spread - 2 * common))


def root(x: Tensor) -> Tensor:
    """R `[k, D]` with R'R the covariance of `[n, D]`, k at most D."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return centred if len(x) <= x.shape[1] else torch.linalg.qr(centred, mode="r").R


def kid(x: Tensor, y: Tensor, subsets: int = 100, most: int = 1000) -> Kid:
    """KID of features `[n, D]`, `[m, D]`: of the whole, or beyond `most` rows the mean of random subsets of that size.

    The error is read off random subsets; NaN for two rows a side. Raises DataError for fewer.
    """
    least = min(len(x), len(y))
    if least < 2:
        raise DataError(f"kid needs two pictures a side or more, there are {len(x)} and {len(y)}: make more pictures")
    size, draw = min(most, max(2, least // 2)), torch.Generator().manual_seed(SEED)
    chosen = ([torch.randperm(len(rows), generator=draw)[:size] for rows in (x, y)] for _ in range(subsets))
    values = torch.stack([mmd(x[first.to(x.device)], y[second.to(y.device)]) for first, second in chosen])
    value = mmd(x, y) if max(len(x), len(y)) <= most else values.mean()
    # subsets drawn without replacement are a jackknife: their spread, scaled, is about the error of the whole
    error = float(values.std()) * (size / (least - size)) ** 0.5 if size < least else float("nan")
    return Kid(float(value), error)


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of `[n, D]` and `[m, D]` with the kernel (x.y / D + 1)^3."""
    x, y = x.double(), y.double()
    within = sum(((k := kernel(rows, rows)).sum() - k.trace()) / (len(rows) * (len(rows) - 1)) for rows in (x, y))
    return within - 2 * kernel(x, y).mean()


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """`[n, m]` cubic polynomial kernel."""
    return (x @ y.T / x.shape[1] + 1) ** 3
