"""What is rewarded, and what it is compared with: pictures with their gradient, and the model as the run began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Adapter, Backbone

START = "start"  # in a trainer's memory: the weights of an adapter that the run went on from


def pictures(model: Backbone, latents: Tensor, checkpointed: bool = False) -> Tensor:
    """Pictures `[B, 3, H, W]` in 0..1 of clean latents, with their gradient.

    checkpointed: the autoencoder's activations are computed again in the backward pass.
    """
    made = checkpoint(model.decode, latents, use_reentrant=False) if checkpointed else model.decode(latents)
    return made.float().div(2).add(0.5).clamp(0, 1)


@contextmanager
def reference(adapter: Adapter, memory: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the model is what the run began with: the base model, or the adapter it went on from. No graph inside.

    Raises UsageError for an adapter that changes the base model even when it is off.
    """
    begun = memory.get(START)
    if begun is None:
        if not adapter.exact_off:
            raise UsageError(f"adapter: the kind '{adapter.kind}' has no exact off, so nothing can be compared with")
        with torch.no_grad(), adapter.off():
            yield
        return
    named = adapter.named_parameters()
    if not named.keys() <= begun.keys():
        raise UsageError(f"start: the kind '{adapter.kind}' cannot be compared with its start: no kl, and beta = 0")
    kept = {name: parameter.data for name, parameter in named.items()}
    try:  # not copied into: a half-built graph would refuse its backward pass
        for name, parameter in named.items():
            parameter.data = begun[name].to(parameter)
        with torch.no_grad():
            yield
    finally:
        for name, parameter in named.items():
            parameter.data = kept[name]
