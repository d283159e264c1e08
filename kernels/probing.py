"""Asks an attention implementation for right numbers and for its speed: an import proves nothing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from studio.kernels.table import KINDS, TABLE, Implementation, matmul

TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 2e-3,  # accelerators may round to TF32
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


class Answer(NamedTuple):
    """Whether an implementation gives right numbers, forward and backward, and the reason if not."""

    ok: bool
    reason: str = ""


def probe(name: str, device: torch.device | str, dtype: torch.dtype, dim: int = 64) -> Answer:
    """Whether an implementation answers: forward and backward, with and without a mask, against float32.

    The largest error may be TOLERANCE[dtype] of the largest reference number. The answer is kept for the
    process.
    """
    return _probe(name, torch.device(device), dtype, dim)


@cache
def _probe(name: str, device: torch.device, dtype: torch.dtype, dim: int) -> Answer:
    if name not in TABLE:
        return Answer(False, f"there is no such implementation; there are {', '.join(KINDS)}")
    try:
        error = isolated(device, lambda: _error(name, device, dtype, dim))
    except ImportError as missing:
        return Answer(False, f'{_line(missing)}; pip install "personalization-studio[{name}]"')
    except Exception as failure:  # whatever a foreign kernel raises is its answer
        return Answer(False, _line(failure))
    if not error <= TOLERANCE[dtype]:
        return Answer(False, f"wrong numbers: relative error {error:.1e}, allowed {TOLERANCE[dtype]:.0e}")
    return Answer(True)


def _error(name: str, device: torch.device, dtype: torch.dtype, dim: int) -> float:
    """Largest relative error of outputs and gradients, with and without a mask; NaN if there is one."""
    mask = torch.arange(77, device=device).expand(2, 1, 1, 77) < 50
    reference = torch.float64 if dtype == torch.float64 else torch.float32
    errors = []
    for seen in (None, mask):
        pairs = zip(
            _numbers(TABLE[name], device, dtype, dtype, dim, seen),
            _numbers(matmul, device, dtype, reference, dim, seen),
            strict=True,
        )
        errors += [(ours.to(reference) - truth).abs().max() / truth.abs().max() for ours, truth in pairs]
    return torch.stack(errors).max().item()


def _numbers(
    function: Implementation,
    device: torch.device,
    dtype: torch.dtype,
    compute: torch.dtype,
    dim: int,
    mask: Tensor | None,
) -> tuple[Tensor, ...]:
    """Output and gradients of q, k, v, computed in `compute` from numbers of `dtype`; 77 keys, as in text."""
    q, k, v, slope = (
        _random((2, 3, length, dim), device, dtype, seed, False).to(compute)
        for seed, length in enumerate((80, 77, 77, 80))
    )
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    out = function(q, k, v, mask, None)
    return out, *torch.autograd.grad(out, inputs, slope)


def seconds(kind: str, q: Tensor, k: Tensor, grad: bool, least: float = 5e-3) -> float:
    """Shortest seconds of one call, with its backward pass if `grad`, on random tensors shaped as q and k.

    least: seconds to measure for. Infinite where the memory does not suffice or the shapes are refused.
    """
    from torch.utils.benchmark import Timer

    q, k, v, slope = (_random(t.shape, q.device, q.dtype, seed, False) for seed, t in enumerate((q, k, k, q)))
    inputs = [tensor.requires_grad_(grad) for tensor in (q, k, v)]

    def call() -> None:
        out = TABLE[kind](q, k, v, None, None)
        if grad:
            torch.autograd.grad(out, inputs, slope)

    try:
        call()
        timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        return min(timer.blocked_autorange(min_run_time=least).times)  # other load only ever adds
    except (RuntimeError, ValueError):  # out of memory, or no kernel for these shapes
        return math.inf


def _random(shape: Any, device: torch.device, dtype: torch.dtype, seed: int, grad: bool) -> Tensor:
    """Normal numbers from a generator of their own: a run's random state is never touched."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_(grad)


def isolated(device: torch.device, function: Callable[[], Any]) -> Any:
    """Runs in a thread of its own, out of reach of autocast, inference mode and checkpointing hooks."""

    def run() -> Any:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            return function()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
