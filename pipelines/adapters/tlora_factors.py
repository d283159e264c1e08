"""T-LoRA's factors, of all layers of a pass at once: beside small products, small operations are what takes time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from studio.pipelines.adapters.lora import NAME
from studio.pipelines.adapters.tlora_masks import Masks

Pair = tuple[Tensor, Tensor]


class Joined(torch.autograd.Function):
    """[Q - Q0; Q0] and [U, U - U0] with U = P diag(s), of n layers: n Q, n P, n s, n Q0 and n U0 to n of each."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The factors; the first halves of all layers, then the second."""
        q, p, s, q0, u0 = (tensors[i * count : (i + 1) * count] for i in range(5))
        ctx.save_for_backward(*p, *s)
        ctx.set_materialize_grads(False)  # a layer that was not used learns nothing, which is not the same as zeros
        learned = torch._foreach_mul(p, columns(s, p))
        first = [torch.cat(pair) for pair in zip(torch._foreach_sub(q, q0), q0, strict=True)]
        return *first, *(torch.cat(pair, 1) for pair in zip(learned, torch._foreach_sub(learned, u0), strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Of Q, P and s; the copies of the start are frozen."""
        count = len(grads) // 2
        saved = ctx.saved_tensors  # once: checkpointed ones are gone then
        p, s = saved[:count], saved[count:]
        of_q = [None if grad is None else grad[: len(s[i])] for i, grad in enumerate(grads[:count])]
        used = [i for i, grad in enumerate(grads[count:]) if grad is not None]
        of_p, of_s = dict[int, Tensor](), dict[int, Tensor]()
        if used:
            halves = [grads[count + i].split(len(s[i]), 1) for i in used]  # type: ignore[union-attr]
            learned = torch._foreach_add([left for left, _ in halves], [right for _, right in halves])
            shaped = columns([s[i] for i in used], [p[i] for i in used])
            of_p = dict(zip(used, torch._foreach_mul(learned, shaped), strict=True))
            products = zip(used, torch._foreach_mul(learned, [p[i] for i in used]), shaped, strict=True)
            of_s = {i: product.sum_to_size(like.shape).flatten() for i, product, like in products}
        rest = [None] * (2 * count)
        return None, *of_q, *map(of_p.get, range(count)), *map(of_s.get, range(count)), *rest


def columns(scales: Sequence[Tensor], ups: Sequence[Tensor]) -> list[Tensor]:
    """Each s `[R]` in the shape that multiplies the columns of its P."""
    return [s.view(1, -1, *[1] * (up.ndim - 2)) for s, up in zip(scales, ups, strict=True)]


def join(layers: Sequence[Any]) -> list[Pair]:
    """`[Q - Q0; Q0]` and `[U, U - U0]` of each of these layers."""
    parts = ([layer.lora_A[NAME].weight for layer in layers], [layer.lora_B[NAME].weight for layer in layers])
    more = ([getattr(layer, name) for layer in layers] for name in ("lora_S", "lora_base_A", "lora_base_B"))
    made = Joined.apply(len(layers), *(tensor for part in (*parts, *more) for tensor in part))
    return list(zip(made[: len(layers)], made[len(layers) :], strict=True))


class Factors:
    """The factors in the pass under way: all are made when its first layer asks, and forgotten at its end.

    A layer that is called without the network has its own alone; so have all where blocks are checkpointed, which
    compute theirs again in the backward pass.
    """

    def __init__(self, masks: Masks, layers: Sequence[nn.Module]) -> None:
        self.masks, self.layers, self.passing = masks, layers, False
        self.made: dict[nn.Module, Pair] = {}
        begin = masks.net.register_forward_pre_hook(self.begin)
        self.handles = (begin, masks.net.register_forward_hook(self.end, always_call=True))

    def begin(self, *_: Any) -> None:
        """The network is called."""
        self.passing = not any(block.gradient_checkpointing for block in self.masks.blocks)

    def end(self, *_: Any) -> None:
        """It has answered, or failed."""
        self.passing, self.made = False, {}

    def of(self, layer: nn.Module) -> Pair:
        """`[Q - Q0; Q0]`, `[2R, in, ...]`, and `[U, U - U0]`, `[out, 2R, ...]`."""
        if not self.passing:
            return join([layer])[0]
        self.made = self.made or dict(zip(self.layers, join(self.layers), strict=True))
        return self.made[layer]

    def remove(self) -> None:
        """The network as it was."""
        for handle in self.handles:
            handle.remove()
