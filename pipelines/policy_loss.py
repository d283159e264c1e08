"""The clipped policy-gradient loss (Schulman et al. 2017), row by row, and what tells its health."""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 60.0  # of a log-ratio: above it the exponential, times an advantage, nears float32's end


def clipped(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - clip, 1 + clip)), `[B]`, with rho = exp(log_ratio).

    At rho = 1 both are equal and its gradient is the unclipped one, that of -A log_ratio.
    """
    ratio = log_ratio.clamp(max=MOST).exp()
    plain, cut = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, cut)


@torch.no_grad()
def health(log_ratio: Tensor, clip: float) -> dict[str, Tensor]:
    """Each row's ratio, whether it is beyond the clip, and half its squared log-ratio (approx_kl)."""
    ratio = log_ratio.clamp(max=MOST).exp()
    beyond = (ratio - 1).abs() > clip
    return {"ratio": ratio, "clipfrac": beyond.float(), "approx_kl": log_ratio.square() / 2}
