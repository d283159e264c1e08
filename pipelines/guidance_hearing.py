"""Networks that hear the guidance scale as a number (latent consistency models), instead of two predictions a step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from studio.pipelines.protocols import Backbone, Cond, Guidance, Predict


def hears(model: Backbone) -> int:
    """Channels of the guidance embedding that the network takes (its time_cond_proj_dim), 0 where it takes none."""
    return getattr(getattr(model.net, "config", None), "time_cond_proj_dim", None) or 0


def guidance_embedding(w: Tensor, dim: int) -> Tensor:
    """Sines and cosines of 1000 w, `[B, dim]` float32; w `[B]`: the usual guidance scale minus 1 (Luo et al. 2023)."""
    half = dim // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = (w.float() * 1000.0)[:, None] * rates.to(w.device)[None]
    return pad(torch.cat([angles.sin(), angles.cos()], 1), (0, dim % 2))


def told(cond: Cond, scale: float | Tensor, dim: int) -> Cond:
    """The conditioning with the embedding of a guidance scale, one or one per picture; dim = 0 leaves it alone."""
    if not dim:
        return cond
    scale = torch.as_tensor(scale, dtype=torch.float32, device=cond.tokens.device).expand(len(cond))
    return replace(cond, extra={**cond.extra, "timestep_cond": guidance_embedding(scale - 1, dim)})


def hearing(model: Backbone, scale: float) -> Guidance:
    """Tells the network the guidance scale where it hears one; every other network predicts as it does."""
    dim = hears(model)

    def guide(predict: Predict) -> Predict:
        return (lambda x, t, cond: predict(x, t, told(cond, scale, dim))) if dim else predict

    return guide
