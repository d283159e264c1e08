"""Counts the bytes alive while operations run, on fake tensors or on real ones."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Inside, every tensor an operation makes is counted until nothing holds it any more.

    now, peak: bytes alive beyond those of `known`, whose tensors were there before.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}
        self.before = [tensor.untyped_storage() for tensor in known]  # held, so that no new one gets their address
        self.old = {storage._cdata for storage in self.before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        return out

    def see(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes or key in self.old:
            return
        self.sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.gone, key)

    def gone(self, key: int) -> None:
        """A storage was freed."""
        self.now -= self.sizes.pop(key)


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors that do not share their memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
