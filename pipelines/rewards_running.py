"""Mean and deviation of a number over all batches seen so far (Welford; Chan, Golub and LeVeque for whole batches).

They are plain numbers in a dict that goes into checkpoints, so that a resumed run continues with exactly these. With
several processes all of them see the values of all.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

FLAT = 1e-6  # a deviation below this share of the mean is rounding, and is not divided by
Moments = tuple[float, float, float]  # count, mean, sum of squared differences from the mean


def update(state: dict[str, Any], values: Tensor) -> None:
    """Takes the finite ones of `values` `[B]` into `state`: count, mean, spread."""
    total = read(state)
    for part in everywhere(moments(values), values.device):
        total = merged(total, part)
    state["count"], state["mean"], state["spread"] = total


def read(state: dict[str, Any]) -> Moments:
    """What a state holds; nothing yet of an empty one."""
    return float(state.get("count", 0.0)), float(state.get("mean", 0.0)), float(state.get("spread", 0.0))


def scale(state: dict[str, Any]) -> tuple[float, float]:
    """(mean, deviation) to subtract and divide by; the deviation is 1 where the values have not differed."""
    count, mean, spread = read(state)
    deviation = math.sqrt(spread / count) if count else 0.0
    return mean, deviation if deviation > FLAT * max(abs(mean), FLAT) else 1.0


def moments(values: Tensor) -> Moments:
    """Of the finite values."""
    x = values.detach().to("cpu", torch.float64)
    x = x[x.isfinite()]
    if not len(x):
        return 0.0, 0.0, 0.0
    return float(len(x)), float(x.mean()), float((x - x.mean()).square().sum())


def merged(first: Moments, second: Moments) -> Moments:
    """The moments of both together."""
    count = first[0] + second[0]
    if not second[0]:
        return first
    gap, share = second[1] - first[1], second[0] / count
    return count, first[1] + gap * share, first[2] + second[2] + gap * gap * first[0] * share


def everywhere(mine: Moments, device: torch.device) -> list[Moments]:
    """The moments of every process, in the same order in all of them."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    sent = torch.tensor(mine, dtype=torch.float64, device=device)
    got = [torch.empty_like(sent) for _ in range(distributed.get_world_size())]
    distributed.all_gather(got, sent)
    return [(part[0].item(), part[1].item(), part[2].item()) for part in got]
