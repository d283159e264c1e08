"""T-LoRA's layers, as variants of peft's LoRA layers, and the singular vectors they start from."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from studio.pipelines.adapters.tlora_factors import Factors
from studio.pipelines.adapters.tlora_masks import Masks
from studio.pipelines.errors import UsageError

Which = Literal["last", "middle", "principal"]


class Vanilla:
    """y = W x + B M A x: peft's own arithmetic with a mask in the middle, in the shape of its `LoraVariant`."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """The layer's output; `result` is W x."""
        down, up, scale = (getattr(module, name)[active_adapter] for name in ("lora_A", "lora_B", "scaling"))
        change = up(self.masks.apply(down(x), channel(down)))
        return result + change if scale == 1 else result + change * scale

    def supports_lora_conversion(self) -> bool:
        """Not without losing the schedule."""
        return False

    def merge_safe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> NoReturn:
        """Always a UsageError: one weight cannot follow the schedule."""
        raise UsageError("a T-LoRA has another rank at every timestep, no weights can hold it: use adapter.export_rank")

    def merge_unsafe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> NoReturn:
        """Always a UsageError."""
        self.merge_safe(module, active_adapter, orig_weight)


class Full(Vanilla):
    """y = W x + U M Q x - U0 M Q0 x with U = P diag(s), where the frozen U0, Q0 are copies of the start.

    Computed as y = W x + U M (Q - Q0) x + (U - U0) M Q0 x, which is the same: no near-equal terms are subtracted from
    each other, so half precision keeps its relative precision and the start is W x to the last bit.
    """

    def __init__(self, masks: Masks, factors: Factors) -> None:
        super().__init__(masks)
        self.factors = factors

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """The layer's output; `result` is W x."""
        down, up, scale = (getattr(module, name)[active_adapter] for name in ("lora_A", "lora_B", "scaling"))
        first, second = self.factors.of(module)
        change = project(up, self.masks.apply(project(down, x, first), channel(down), 2), second)
        change = change if scale == 1 else change * scale
        # W x is nobody else's, and need not be copied; a view may be of what a quantised layer keeps
        own = result.dtype == change.dtype and not result._is_view()
        return result.add_(change) if own else result + change


def channel(down: nn.Module) -> int:
    """The dimension of a layer's activations that holds the ranks."""
    return 1 if isinstance(down, nn.Conv2d) else -1


def project(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """What the linear or convolution layer computes with another weight."""
    if isinstance(layer, nn.Conv2d):
        return layer._conv_forward(x, weight, None)
    return nn.functional.linear(x, weight)


def cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A layer's input as its factors need it: autocast goes from bf16 to bf16 without peft's detour by float32."""
    return x if x is None or torch.is_autocast_enabled(x.device.type) else x.to(dtype)


def scaled_columns(up: Tensor, s: Tensor) -> Tensor:
    """P diag(s) of P `[out, R]` or `[out, R, 1, 1]` and s `[R]`."""
    return up * s.view(1, -1, *[1] * (up.ndim - 2))


def triplets(matrix: Tensor, rank: int, which: Which) -> tuple[Tensor, Tensor, Tensor]:
    """`rank` singular triplets of `[out, in]`, in descending order: P `[out, R]`, s `[R]`, Q `[R, in]`."""
    u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)
    start = {"principal": 0, "middle": (len(s) - rank) // 2, "last": len(s) - rank}[which]
    chosen = slice(start, start + rank)
    return u[:, chosen], s[chosen], v[chosen]


def effective_rank(up: Tensor, share: float = 0.95) -> int:
    """How many singular values of a matrix `[out, R]` hold this share of their sum; 0 for a matrix of zeros."""
    values = torch.linalg.svdvals(up.detach().flatten(1).cpu().double())
    total = values.sum()
    return int((values.cumsum(0) < share * total).sum()) + 1 if total > 0 else 0
