"""A frozen network that waits in main memory: each layer's weights come to the device for its own computation.

In the backward pass they come again: what autograd keeps of such a weight is its name, not its copy on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Packed = tuple[str, tuple[int, ...], tuple[int, ...], int]


class Offload:
    """The frozen parameters of `net`'s layers wait in `home`'s memory (default: pinned main memory).

    Adapter parameters stay. Call it before the network is used, and run `training()` around forward passes that
    need gradients; without gradients the layers come and go by themselves.
    """

    def __init__(self, net: nn.Module, device: torch.device) -> None:
        self.device = device
        self.home: dict[str, Tensor] = {}
        self.there: dict[int, str] = {}  # storage of a weight that is on the device now -> its name
        for place, layer in net.named_modules():
            frozen = {key: p for key, p in layer.named_parameters(recurse=False) if not p.requires_grad}
            if frozen:
                names = {key: f"{place}.{key}" for key in frozen}
                for key, parameter in frozen.items():
                    self.leave(names[key], parameter)
                layer.register_forward_pre_hook(self.coming(names))
                layer.register_forward_hook(self.going(frozen), always_call=True)

    def leave(self, name: str, parameter: nn.Parameter) -> None:
        """A weight to main memory, pinned where that makes copies faster."""
        kept = parameter.detach().to("cpu", copy=True)
        self.home[name] = kept.pin_memory() if self.device.type == "cuda" else kept
        parameter.data = torch.empty(0, dtype=kept.dtype, device=self.device)

    def fetch(self, name: str) -> Tensor:
        """A copy of a weight on the device."""
        return self.home[name].to(self.device, copy=True, non_blocking=True)

    def coming(self, names: dict[str, str]) -> Callable[..., None]:
        """Before a layer's computation. Others than the empty parameters: a graph may hold on to these for a while."""

        def come(layer: nn.Module, *_: Any) -> None:
            for key, name in names.items():
                weight = nn.Parameter(self.fetch(name), requires_grad=False)
                self.there[weight.untyped_storage().data_ptr()] = name
                layer._parameters[key] = weight

        return come

    def going(self, frozen: dict[str, nn.Parameter]) -> Callable[..., None]:
        """After it."""

        def go(layer: nn.Module, *_: Any) -> None:
            for key, empty in frozen.items():
                weight = layer._parameters[key]
                if weight is not None:
                    self.there.pop(weight.untyped_storage().data_ptr(), None)
                layer._parameters[key] = empty

        return go

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside, graphs keep the names of the weights they need."""
        with torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack):
            yield

    def pack(self, tensor: Tensor) -> Tensor | Packed:
        """What a graph keeps: a weight's name and how it is seen, any other tensor itself."""
        name = self.there.get(tensor.untyped_storage().data_ptr())
        if name is None or not tensor.numel():
            return tensor
        return name, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())

    def unpack(self, kept: Tensor | Packed) -> Tensor:
        """The tensor again."""
        if isinstance(kept, Tensor):
            return kept
        name, shape, stride, offset = kept
        return self.fetch(name).as_strided(shape, stride, offset)
