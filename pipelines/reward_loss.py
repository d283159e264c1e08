"""What a batch of scored pictures asks of the weights, and the numbers that a run shows of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from studio.pipelines.rewards import Scored

TINY = 1e-6  # a share of rows below it is none: shares are averaged in float32


def objective(scored: Scored, pictures: Tensor, coeff: float, margin: float | None = None) -> Tensor:
    """-coeff mean r, or coeff mean max(margin - r, 0), over the rows that could be scored; 0 where there are none.

    NaN, which refuses the step, where no picture of `[B, 3, H, W]` is of numbers.
    """
    rows = -scored.value if margin is None else (margin - scored.value).clamp(min=0)
    value = coeff * torch.where(scored.good, rows, 0.0).sum() / scored.good.sum().clamp(min=1)
    return value if value.requires_grad else value + 0.0 * pictures.sum()


def numbers(scored: Scored, known: Mapping[str, float] | None = None) -> dict[str, float | Tensor]:
    """Mean and deviation of the reward, the mean of each term, the share of rows without a score.

    To be averaged over batches and processes and then `settled`: each mean counts by its batch's share of scored rows,
    so that a batch with fewer or none changes it less or not. known: of all processes, in the place of this batch's.
    """
    good, known = scored.good, known or {}
    rows, share = scored.value.detach()[good], good.float().mean()
    names = ("reward", "reward_std", *(f"reward/{name}" for name in scored.raw))
    found: dict[str, float | Tensor] = {name: 0.0 for name in names}
    if len(rows):
        found |= {"reward": rows.mean(), "reward_std": rows.std(correction=0)}
        found |= {f"reward/{name}": raw[good].float().mean() for name, raw in scored.raw.items()}
    found |= {name: known[name] for name in found if name in known}
    return {**known, **{name: value * share for name, value in found.items()}, "unscored": 1 - share}


def settled(numbers: Mapping[str, float]) -> dict[str, float]:
    """The means over scored rows, of averages of `numbers`; NaN where not one row was scored."""
    share = 1 - numbers.get("unscored", 0.0)
    names = [name for name in numbers if name in ("reward", "reward_std") or name.startswith("reward/")]
    return {name: numbers[name] / share if share > TINY else math.nan for name in names}


def above(scored: Scored, margin: float | None) -> dict[str, Tensor]:
    """The share of scored rows at or above the margin, which teach nothing; 0 of none. Empty without a margin."""
    if margin is None:
        return {}
    return {"above": (scored.good & (scored.value.detach() >= margin)).sum() / scored.good.sum().clamp(min=1)}


def moved(now: Mapping[str, Tensor], begun: Mapping[str, Tensor]) -> Tensor:
    """The squared distance of weights from what they were, summed over all of them."""
    return torch.stack([(tensor - begun[name].to(tensor)).square().sum() for name, tensor in now.items()]).sum()
