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


def interval(values: Sequence[float], prompts: Sequence[Hashable], seed: int = 0, seeds: bool = True) -> Interval:
    """The mean of values, one per picture, and its interval. prompts: whose picture each is. NaN is left out.

    seeds: with one prompt alone its pictures are drawn; no: they are not independent, and there is no interval.
    """
    kept = finite(values, prompts)
    if not kept:
        return Interval(NAN, NAN, NAN, 0)
    middle = mean(values)
    drawn = deviations(kept, middle, seed, seeds)
    if drawn is None:
        return Interval(middle, NAN, NAN, len(kept))
    low, high = quantiles(drawn)
    return Interval(middle, middle + min(0.0, low), middle + max(0.0, high), len(kept))


def ratio(
    above: Sequence[float], above_prompts: Sequence[Hashable], below: Sequence[float], below_prompts: Sequence[Hashable]
) -> Interval:
    """Mean of `above` by mean of `below`, each drawn by its own prompts: both are uncertain.

    No interval where the lower mean is not surely above 0, or is of one picture.
    """
    top, bottom = mean(above), mean(below)
    up, down = deviations(finite(above, above_prompts), top, 0), deviations(finite(below, below_prompts), bottom, 1)
    value, n = top / bottom if bottom else NAN, len(finite(above, above_prompts))
    if up is None or down is None or not bottom + quantiles(down)[0] > 0:
        return Interval(value, NAN, NAN, n)
    lower = bottom + down
    low, high = quantiles(torch.where(lower > 0, (top + up) / lower, math.copysign(math.inf, top)))
    return Interval(value, min(low, value), max(high, value), n)


def constant(seen: Interval, prompts: Sequence[Hashable], bounds: tuple[float, float]) -> Interval:
    """The interval of a mean of equal values within finite bounds: what so few prompts can have missed.

    Of n prompts that show one thing, another may have a share of 1 - 0.05^(1/n), about 3/n (the rule of three); at
    worst it lies at a bound. n: the prompts, or the pictures of one prompt alone.
    """
    count = len(set(prompts))
    missed = 1 - 0.05 ** (1 / (count if count > 1 else seen.n))
    least, most = bounds
    return seen._replace(low=seen.value - missed * (seen.value - least), high=seen.value + missed * (most - seen.value))


def mean(values: Sequence[float]) -> float:
    """Of the numbers among the values; NaN of none."""
    kept = [value for value in values if math.isfinite(value)]
    return math.fsum(kept) / len(kept) if kept else NAN


def finite(values: Sequence[float], prompts: Sequence[Hashable]) -> list[tuple[float, Hashable]]:
    """The numbers among the values, each with its prompt."""
    return [(value, prompt) for value, prompt in zip(values, prompts, strict=True) if math.isfinite(value)]


def deviations(kept: Sequence[tuple[float, Hashable]], mean: float, seed: int, seeds: bool = True) -> Tensor | None:
    """`[DRAWS]` drawn means less the mean, spread; None where there is nothing to draw from."""
    clusters: dict[Hashable, list[float]] = {}
    for value, prompt in kept:
        clusters.setdefault(prompt, []).append(value)
    groups = list(clusters.values())
    groups = [[value] for value in groups[0]] if len(groups) == 1 and seeds else groups
    if len(groups) < 2:
        return None
    sums = torch.tensor([math.fsum(value - mean for value in group) for group in groups], dtype=torch.float64)
    counts = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    drawn = draws(len(groups), seed)
    return spread(len(groups)) * (drawn @ sums / (drawn @ counts))


def quantiles(drawn: Tensor) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


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
