"""What a batch of scored pictures asks of the weights, and the numbers that a run shows of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from studio.pipelines.rewards import Scored


def objective(scored: Scored, pictures: Tensor, coeff: float, margin: float | None = None) -> Tensor:
    """-coeff mean r, or coeff mean max(margin - r, 0), over the rows that could be scored; 0 where there are none.

    NaN, which refuses the step, where no picture of `[B, 3, H, W]` is of numbers.
    """
    rows = -scored.value if margin is None else (margin - scored.value).clamp(min=0)
    value = coeff * torch.where(scored.good, rows, 0.0).sum() / scored.good.sum().clamp(min=1)
    return value if value.requires_grad else value + 0.0 * pictures.sum()


def numbers(scored: Scored) -> dict[str, float | Tensor]:
    """Mean and deviation of the reward, the mean of each term, the share of rows without a score; 0 for means of none.

    The same names for every batch: processes average them, and one may have rows without a score where another has not.
    """
    good = scored.good
    rows = scored.value.detach()[good]
    found: dict[str, float | Tensor] = {
        "reward": rows.mean() if len(rows) else 0.0,
        "reward_std": rows.std(correction=0) if len(rows) else 0.0,
        "unscored": 1 - good.float().mean(),
    }
    terms = {f"reward/{name}": raw[good].float().mean() if len(rows) else 0.0 for name, raw in scored.raw.items()}
    return found | terms


def moved(now: Mapping[str, Tensor], begun: Mapping[str, Tensor]) -> Tensor:
    """The squared distance of weights from what they were, summed over all of them."""
    return torch.stack([(tensor - begun[name].to(tensor)).square().sum() for name, tensor in now.items()]).sum()
