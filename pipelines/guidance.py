"""Guidance: functions from `predict` to `predict`. Here classifier-free guidance (Ho and Salimans 2022).

`guidance_kinds` has those between an adapter and its base model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Cond, Guidance, Predict


def cfg(scale: float, empty: Cond, rescale: float = 0.0) -> Guidance:
    """out = uncond + scale (cond - uncond), both in one batched call; scale 1 is the plain prediction.

    empty: the negative prompt's conditioning, one row or one per picture. rescale: how far the output's
    standard deviation is brought back to that of the conditional output (Lin et al. 2023, section 3.4).
    """

    def guide(predict: Predict) -> Predict:
        if scale == 1:
            return predict

        def guided(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            without = expand(empty, len(cond))
            uncond, with_prompt = predict(torch.cat([x, x]), torch.cat([t, t]), Cond.cat([without, cond])).chunk(2)
            return rescaled(uncond + scale * (with_prompt - uncond), with_prompt, rescale)

        return guided

    return guide


def expand(cond: Cond, count: int) -> Cond:
    """One row repeated `count` times; `count` rows as they are. Raises UsageError for any other number."""
    if len(cond) not in (1, count):
        raise UsageError(f"a conditioning of {len(cond)} rows for {count} pictures: give one row, or one per picture")
    return cond if len(cond) == count else cond.map(lambda row: row.expand(count, *row.shape[1:]))


def rescaled(out: Tensor, like: Tensor, share: float) -> Tensor:
    """`out` with `share` of the way gone to the per-picture standard deviation of `like`; 0 is `out` itself."""
    if not share:
        return out
    axes = tuple(range(1, out.ndim))
    matched = out * (like.std(axes, keepdim=True) / out.std(axes, keepdim=True))
    return share * matched + (1 - share) * out
