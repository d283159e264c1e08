"""One `attend` over several implementations of the same softmax attention; the fastest that answers is taken.

On the CPU `auto` follows a fixed rule, so that a resumed run repeats itself bit for bit. On an accelerator it
times the implementations once per device, type and shape class; `chosen()` says what was taken and `preset()`
takes it again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from studio.kernels.probing import Answer, isolated, probe, seconds
from studio.kernels.table import KINDS, TABLE

__all__ = ["CHOICES", "KINDS", "Answer", "Unavailable", "attend", "chosen", "preset", "probe"]

CHOICES = ("auto", *KINDS)
LARGEST = 2**30  # bytes of scores up to which an implementation that keeps them all may be taken by auto
SHORT = 2**19  # L x S up to which matmul trains faster than sdpa in bfloat16 on the CPU (kernels.bench)
MARGIN = 0.9  # another implementation must need less than this share of sdpa's time: timings are noisy


_chosen: dict[str, str] = {}


class Unavailable(RuntimeError):
    """A named implementation that does not work here, with the reason and what to do."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    choice: str = "auto",
    scale: float | None = None,
    upcast: bool = False,
) -> Tensor:
    """Softmax attention by the chosen implementation.

    q: `[B, H, L, D]`; k: `[B, H, S, D]`; v: `[B, H, S, D]`; mask: bool (True is seen) or additive,
    broadcastable to `[B, H, L, S]`, without a gradient; scale: default 1/sqrt(D); upcast: scores in float32
    even in half precision (only matmul keeps them in the input's type). Returns `[B, H, L, D]` in v's type. A
    query whose every key is masked (False, or the type's smallest number or less) gives zeros and zero
    gradients. Raises Unavailable when the named implementation does not work on this device, ValueError for
    an unknown name or a mask with a gradient.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)
    name = choose(q, k, v) if choice == "auto" else named(choice, q.device, q.dtype)
    if upcast and name == "matmul" and v.dtype in (torch.float16, torch.bfloat16):
        return attend(q.float(), k.float(), v.float(), mask, name, scale).to(v.dtype)
    with _no_autocast(q.device.type):
        if mask is None:
            return TABLE[name](q, k, v, None, scale)
        mask, blind = _open(mask, q.dtype)
        return TABLE[name](q, k, v, mask, scale).masked_fill(blind, 0)


def _open(mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The 4-D mask with wholly masked rows opened (their softmax would be NaN), and where those rows are."""
    if mask.requires_grad:
        raise ValueError("attention masks are constants here: pass mask.detach()")
    mask = mask[(None,) * (4 - mask.ndim)]
    if mask.dtype == torch.bool:
        blind = ~mask.any(-1, keepdim=True)
        return mask | blind, blind
    mask = mask.to(dtype)
    blind = (mask <= torch.finfo(dtype).min).all(-1, keepdim=True)
    return mask.masked_fill(blind, 0), blind


def _no_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """q, k and v are already in the type the caller wants; autocast would round the upcast scores again."""
    off = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if off else contextlib.nullcontext()


def named(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """`name` itself if that implementation answers on this device; raises Unavailable or ValueError."""
    if name not in TABLE:
        raise ValueError(f"no attention named '{name}'; there are {', '.join(CHOICES)}")
    if torch.compiler.is_compiling():
        return name
    answer = probe(name, device, dtype)
    if not answer.ok:
        raise Unavailable(f"attention '{name}' does not work on {device} in {_short(dtype)}: {answer.reason}")
    return name


def choose(q: Tensor, k: Tensor, v: Tensor) -> str:
    """The name `auto` stands for: a fixed rule on the CPU, the fastest that answers on an accelerator."""
    if q.device.type == "cpu":
        return _on_cpu(q, k)
    key = shape_class(q, k, v)
    if key not in _chosen:
        if torch.compiler.is_compiling():
            return "sdpa"  # nothing can be timed inside a graph
        _chosen[key] = isolated(q.device, lambda: _fastest(q, k, key.endswith("grad")))
    return _chosen[key]


def _on_cpu(q: Tensor, k: Tensor) -> str:
    """matmul for short bfloat16 attention, otherwise sdpa: a flash kernel there, fast and keeping no scores.

    By L x S alone, so that a picture's numbers depend neither on its batch nor on whether gradients are
    wanted.
    """
    return "matmul" if q.dtype == torch.bfloat16 and q.shape[2] * k.shape[2] <= SHORT else "sdpa"


def chosen() -> dict[str, str]:
    """What `auto` took on accelerators so far: shape class -> implementation; plain strings, for env.json."""
    return dict(_chosen)


def preset(choices: Mapping[str, str]) -> dict[str, str]:
    """Takes an earlier run's `chosen()` again; returns what does not answer here and is not taken.

    Raises ValueError for an implementation that does not exist.
    """
    if unknown := sorted(set(choices.values()) - set(KINDS)):
        raise ValueError(f"no attention named '{unknown[0]}'; there are {', '.join(KINDS)}")
    refused = {key: name for key, name in choices.items() if not _answers(key, name)}
    _chosen.update({key: name for key, name in choices.items() if key not in refused})
    return refused


def _answers(key: str, name: str) -> bool:
    device, dtype, *_ = key.split()
    return probe(name, device, getattr(torch, dtype)).ok


def shape_class(q: Tensor, k: Tensor, v: Tensor) -> str:
    """What a choice holds for: device, type, L, S and D up to powers of 2, batch x heads up to 4^n."""
    length, keys, dim = (1 << (n - 1).bit_length() for n in (q.shape[2], k.shape[2], q.shape[3]))
    batch = 4 ** math.ceil(math.log(max(q.shape[0] * q.shape[1], 1), 4))
    grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, k, v))
    return f"{q.device.type} {_short(q.dtype)} {length}x{keys}x{dim} {batch} {'grad' if grad else 'plain'}"


def _fastest(q: Tensor, k: Tensor, grad: bool) -> str:
    """Times every implementation that answers on these shapes; sdpa unless another is clearly faster."""
    kinds = [kind for kind in KINDS if kind != "matmul" or _score_bytes(q, k) <= LARGEST]
    times = {kind: seconds(kind, q, k, grad) for kind in kinds if probe(kind, q.device, q.dtype, q.shape[-1]).ok}
    best = min(times, key=lambda kind: times[kind], default="sdpa")
    return best if times.get(best, math.inf) < MARGIN * times.get("sdpa", math.inf) else "sdpa"


def _score_bytes(q: Tensor, k: Tensor) -> int:
    return math.prod(q.shape[:3]) * k.shape[2] * q.element_size()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
