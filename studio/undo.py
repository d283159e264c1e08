"""The state before an optimizer step, kept beside it: a step that overflowed can be taken back to the last bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

LIMIT = 2**29  # bytes; beyond them the copy would cost what people have gradient checkpointing for


class Undo:
    """Copies of parameters, optimizer state and group options, in buffers that are made once.

    Nothing is kept, and `back` says so, where there is more than LIMIT to copy.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.live: list[Tensor] = []
        self.copies: list[Tensor] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.groups: list[dict[str, Any]] = []

    def take(self) -> None:
        """Before a step."""
        self.state = {parameter: dict(entry) for parameter, entry in self.optimizer.state.items()}
        self.groups = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        live = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        live += [
            value for entry in (*self.state.values(), *self.groups) for value in entry.values() if is_tensor(value)
        ]
        if len(live) != len(self.live) or any(a is not b for a, b in zip(live, self.live, strict=True)):
            self.live = live if size(live) <= LIMIT else []
            self.copies = [torch.empty_like(tensor) for tensor in self.live]
        if self.live:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.live)

    def back(self) -> bool:
        """As it was when `take` was called; False where nothing was kept."""
        if not self.live:
            return False
        with torch.no_grad():
            torch._foreach_copy_(self.live, self.copies)
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)
        for group, kept in zip(self.optimizer.param_groups, self.groups, strict=True):
            group.update(kept)
        return True


def is_tensor(value: Any) -> bool:
    """Whether it can be copied in place."""
    return isinstance(value, Tensor)


def size(tensors: list[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
