"""Exact attention whose memory does not grow with L x S, forward and backward, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

SCORES = 2**22  # scores alive at a time, summed over batch and heads: 16 MiB in float32
SMALLEST = 32  # shortest side of a block: the bound is SCORES or batch x heads x SMALLEST^2, if that is more


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Softmax attention, computed block by block and recomputed in the backward pass.

    q: `[B, H, L, D]`; k: `[B, H, S, D]`; v: `[B, H, S, E]`; mask: bool (True is seen) or additive,
    broadcastable to `[B, H, L, S]`, no gradient; scale: default 1/sqrt(D). Returns `[B, H, L, E]` in v's
    type; sums are float32 (float64 for float64). A query that sees no key gives zeros and zero gradients.
    Differentiable once. Source: Rabe & Staats 2112.05682; Dao et al. 2205.14135, algorithms 1 and 4.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _Chunked.apply(q, k, v, mask, scale)


class _Chunked(torch.autograd.Function):
    """Saves q, k, v, the output and one log-sum-exp per query; the scores are made again when needed."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            out, lse = _forward(q, k, v, mask, scale)
        ctx.save_for_backward(q, k, v, mask, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # autograd enables gradients here only for create_graph=True, and once_differentiable would not notice
        # that q, k and v need a second derivative: it looks at the incoming gradient alone
        if torch.is_grad_enabled():
            raise RuntimeError("chunked attention can be differentiated only once; use attention='matmul'")
        q, k, v, mask, out, lse = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            return *_backward(q, k, v, mask, ctx.scale, out, lse, grad), None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp `[B, H, L, 1]` by online softmax; +inf for a query that sees no key."""
    out = v.new_empty(*q.shape[:-1], v.shape[-1])
    lse = q.new_empty(*q.shape[:-1], 1, dtype=_wide(q))
    rows, columns = _blocks(q, k)
    for i in rows:
        block = _wide_block(q, i) * scale
        top = lse.new_full((*block.shape[:-1], 1), -torch.inf)
        total = torch.zeros_like(top)
        mean = lse.new_zeros(*block.shape[:-1], v.shape[-1])
        for j in columns:
            scores = _scores(block, k, mask, i, j)
            higher = torch.maximum(top, scores.amax(-1, keepdim=True))
            origin = higher.masked_fill(higher == -torch.inf, 0)  # no key seen yet: exp(-inf - -inf) would be NaN
            weights = scores.sub_(origin).exp_()
            fade = (top - origin).exp_()
            total = total * fade + weights.sum(-1, keepdim=True)
            mean = mean * fade + weights @ _wide_block(v, j)
            top = higher
        blind = total == 0
        out[:, :, i] = (mean / total.masked_fill(blind, 1)).to(out.dtype)
        # +inf makes the backward pass's exp(scores - lse) zero where nothing was seen
        lse[:, :, i] = (top + total.log()).masked_fill(blind, torch.inf)
    return out, lse


def _backward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, out: Tensor, lse: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v: dS = P (dP - rowsum(dO O)), Dao et al. algorithm 4."""
    dq = torch.empty_like(q)
    dk, dv = (torch.zeros_like(tensor, dtype=lse.dtype) for tensor in (k, v))
    rows, columns = _blocks(q, k)
    for i in rows:
        block, slope = _wide_block(q, i) * scale, _wide_block(grad, i)
        drift = (slope * _wide_block(out, i)).sum(-1, keepdim=True)
        step = torch.zeros_like(block)
        for j in columns:
            weights = _scores(block, k, mask, i, j).sub_(lse[:, :, i]).exp_()
            dv[:, :, j] += weights.mT @ slope
            change = (slope @ _wide_block(v, j).mT).sub_(drift).mul_(weights)
            step += change @ _wide_block(k, j)
            dk[:, :, j] += change.mT @ block
        dq[:, :, i] = (step * scale).to(q.dtype)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _scores(block: Tensor, k: Tensor, mask: Tensor | None, i: slice, j: slice) -> Tensor:
    """Masked scores of one block of (already scaled) queries and one of keys."""
    scores = block @ _wide_block(k, j).mT
    if mask is None:
        return scores
    mask = mask[(None,) * (4 - mask.ndim)]
    mask = mask[:, :, i if mask.shape[2] > 1 else slice(None), j if mask.shape[3] > 1 else slice(None)]
    return scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)


def _blocks(q: Tensor, k: Tensor) -> tuple[list[slice], list[slice]]:
    """Slices of queries and of keys: square blocks within the bound, wider where the other side is short."""
    most = max(SCORES // (q.shape[0] * q.shape[1]), SMALLEST**2)
    length, keys = q.shape[2], k.shape[2]
    side = max(SMALLEST, 2 ** ((most.bit_length() - 1) // 2))
    width = min(keys, max(side, most // max(length, 1)))
    height = min(length, max(side, most // max(width, 1)))
    return list(_slices(length, height)), list(_slices(keys, width))


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, max(size, 1)))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _wide_block(tensor: Tensor, rows: slice) -> Tensor:
    return tensor[:, :, rows].to(_wide(tensor))
