"""xformers' memory-efficient attention behind the signature of ours (extra `xformers`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """`xformers.ops.memory_efficient_attention` for q `[B, H, L, D]`, k and v `[B, H, S, D]`.

    mask: bool (True is seen) or additive, broadcastable to `[B, H, L, S]`. Raises ImportError where xformers
    is not installed, and whatever xformers raises where none of its kernels takes the inputs.
    """
    from xformers.ops import memory_efficient_attention

    bias = None if mask is None else _bias(mask, q, k)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale).transpose(1, 2)


def _bias(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """The mask as an additive bias `[B, H, L, S]` in rows padded to 8, as xformers' kernels read it."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    keys = k.shape[2]
    mask = mask.to(q.dtype).expand(*q.shape[:3], keys)
    return functional.pad(mask, (0, -keys % 8))[..., :keys]
