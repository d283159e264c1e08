"""The attention implementations by name, all of one signature and one meaning."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from studio.kernels import chunked, with_xformers

Implementation = Callable[[Tensor, Tensor, Tensor, "Tensor | None", "float | None"], Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """torch's scaled_dot_product_attention."""
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(scale q k^T + mask) v as written; keeps all scores, `[B, H, L, S]`, for the backward pass."""
    # the smaller operand is scaled, before the product: half precision would overflow after it
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v  # torch's softmax sums half precision in float32 already


TABLE: dict[str, Implementation] = {
    "sdpa": sdpa,
    "matmul": matmul,
    "chunked": chunked.attend,
    "xformers": with_xformers.attend,
}
KINDS = tuple(TABLE)
