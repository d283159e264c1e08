"""Heads of linear layers with nothing but dropout between them: in evaluation one affine map, and kept as one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from studio.pipelines.errors import ModelError

LAYERS = (0, 2, 4, 6, 7)  # as LAION's aesthetic predictor v2 numbers them, and ImageReward after it


def folded(state: Mapping[str, Tensor], prefix: str = "layers.") -> tuple[Tensor, Tensor]:
    """(weight `[D]`, bias `[]`) float32 of the ten tensors `{prefix}{0,2,4,6,7}.{weight,bias}`, multiplied out.

    Raises ModelError when they are others, or do not fit each other.
    """
    ours = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    wanted = {f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")}
    if set(ours) != wanted:
        found = ", ".join(sorted(ours)) or "none of these"
        raise ModelError(f"a head of other layers ({found[:200]}); wanted {', '.join(sorted(wanted))}")
    weight, bias = ours["0.weight"].double(), ours["0.bias"].double()  # five factors: float32 would lose digits
    for layer in LAYERS[1:]:
        after, shift = ours[f"{layer}.weight"].double(), ours[f"{layer}.bias"].double()
        if after.shape[1:] != weight.shape[:1]:
            raise ModelError(f"layer {prefix}{layer} takes {tuple(after.shape)[1:]} numbers of {weight.shape[0]}")
        weight, bias = after @ weight, after @ bias + shift
    if weight.shape[0] != 1:
        raise ModelError(f"a head of {weight.shape[0]} numbers; wanted one of one number")
    return weight[0].to(torch.float32), bias[0].to(torch.float32)
