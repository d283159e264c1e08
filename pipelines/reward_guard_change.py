"""How much better one look is than another for the held-out judges, with its error."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from studio.pipelines.reward_guard_look import Look, unit

Change = tuple[float, float]


def change(now: Look, then: Look, start: Look, weights: Mapping[str, float]) -> Change:
    """Mean and standard error, over pictures, of how much better `now` is for the held-out judges, in units.

    Picture by picture, since both looks have the same prompts and seeds; of a picture that a judge could not score, the
    other judges count. weights: with the sign that makes larger better. NaN where nothing could be compared, (0, 0)
    without a judge.
    """
    if not weights:
        return 0.0, 0.0
    rows = torch.stack([better(now, then, start, name, weight) for name, weight in weights.items()])
    known, share = rows.isfinite(), rows.new_tensor([abs(weight) for weight in weights.values()])[:, None]
    return paired((rows.nan_to_num() * share * known).sum(0) / (share * known).sum(0))


def better(now: Look, then: Look, start: Look, name: str, weight: float) -> Tensor:
    """`[N]` by how many units each picture is better for one judge; NaN where it scored one of the two not."""
    rise = (now.held[name].double() - then.held[name].double()) * math.copysign(1, weight) / unit(start.held[name])
    return torch.where(rise.isfinite(), rise, torch.nan)


def paired(rows: Tensor) -> Change:
    """Mean and standard error of the finite differences; NaN without one."""
    known = rows[rows.isfinite()].double()
    if not len(known):
        return math.nan, math.nan
    return float(known.mean()), float(known.std(correction=min(1, len(known) - 1))) / math.sqrt(len(known))
