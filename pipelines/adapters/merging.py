"""Updates folded into the frozen weights for a while: a forward pass then costs what the base model's costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def mergeable(layers: Iterable[Any]) -> bool:
    """Whether the frozen weights of peft's layers are plain numbers that are here: not in 8 bits, not offloaded."""
    weights = [layer.get_base_layer().weight.data for layer in layers]
    return all(type(weight) is Tensor and weight.is_floating_point() and weight.numel() for weight in weights)


@contextmanager
def merged(layers: Iterable[Any], name: str) -> Iterator[None]:
    """Inside, peft's layers have the update of the adapter `name` in their frozen weights, rounded to their dtype.

    Afterwards every weight is the tensor that it was. Not for training: gradients do not reach the update.
    """
    held = [(layer, layer.get_base_layer().weight) for layer in layers]
    before = [weight.data for _, weight in held]
    try:
        with torch.no_grad():
            for (layer, weight), original in zip(held, before, strict=True):
                weight.data = original.clone()
                layer.merge(adapter_names=[name])
        yield
    finally:
        for (layer, weight), original in zip(held, before, strict=True):
            weight.data = original
            layer.merged_adapters.clear()
            getattr(layer, "_caches", {}).pop(f"{name}-weight_norm", None)  # what peft's own unmerge would need
