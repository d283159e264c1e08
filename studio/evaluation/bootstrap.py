"""95 % intervals by a cluster bootstrap over prompts: the pictures of one prompt rise and fall together.

Prompts are drawn with replacement, each with all its seeds. Drawing seeds anew inside them would count the seeds'
scatter twice, as the prompts' means have it already (Davison and Hinkley 1997, section 3.8). With one prompt alone the
seeds are drawn. Percentiles of few prompts are too narrow, so they are spread by t / z and by sqrt(P / (P - 1))
(Hesterberg 2015, the expanded percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

DRAWS = 4000
NAN = float("nan")
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706)  # 97.5 % quantiles of t with 1 to 5 degrees of freedom


class Interval(NamedTuple):
    """A mean with its 95 % interval and the number of values in it; NaN where there is none."""

    value: float
    low: float
    high: float
    n: int


def interval(values: Sequence[float], prompts: Sequence[Hashable], seed: int = 0) -> Interval:
    """The mean of values, one per picture, and its interval. prompts: whose picture each is. NaN is left out."""
    kept = [(value, prompt) for value, prompt in zip(values, prompts, strict=True) if math.isfinite(value)]
    if not kept:
        return Interval(NAN, NAN, NAN, 0)
    clusters: dict[Hashable, list[float]] = {}
    for value, prompt in kept:
        clusters.setdefault(prompt, []).append(value)
    groups = list(clusters.values())
    groups = [[value] for value in groups[0]] if len(groups) == 1 else groups
    mean = math.fsum(value for value, _ in kept) / len(kept)
    if len(groups) == 1:
        return Interval(mean, NAN, NAN, len(kept))
    sums = torch.tensor([math.fsum(value - mean for value in group) for group in groups], dtype=torch.float64)
    counts = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    drawn = draws(len(groups), seed)
    low, high = torch.quantile(drawn @ sums / (drawn @ counts), torch.tensor([0.025, 0.975], dtype=torch.float64))
    wider = spread(len(groups))
    return Interval(mean, mean + min(0.0, wider * float(low)), mean + max(0.0, wider * float(high)), len(kept))


@lru_cache(maxsize=64)
def draws(count: int, seed: int) -> Tensor:
    """How often each of `count` clusters is in each draw, `[DRAWS, count]`."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(count, (DRAWS, count), generator=generator)
    return torch.zeros(DRAWS, count, dtype=torch.float64).scatter_add_(
        1, chosen, torch.ones(DRAWS, count, dtype=torch.float64)
    )


def spread(count: int) -> float:
    """How much too narrow the percentiles of `count` clusters are."""
    z = NormalDist().inv_cdf(0.975)
    return math.sqrt(count / (count - 1)) * student(count - 1) / z


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 0.002 (Cornish-Fisher expansion)."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z, n = NormalDist().inv_cdf(0.975), freedom
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + first + second + third
