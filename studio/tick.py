"""What the loop hands back: one optimizer step that was taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.pipelines.errors import StudioError
from studio.snapshot import State


@dataclass(frozen=True)
class Tick:
    """One optimizer step that was taken.

    step: how many are done; numbers: loss, grad_norm, lr and the trainer's own, all finite (but for grad_norm in a
    step that fp16's scaler skipped, and rewards where no picture could be scored: nan); safe: a checkpoint may be
    taken now; state(): everything to go on from here; averaged(): a context in which the adapter holds the weights
    to export (the moving average, where there is one); warnings, messages: for the run's events; stop: why the run
    is finished with this step; failed: what the loop raises next.
    """

    step: int
    numbers: dict[str, float]
    safe: bool
    state: Callable[[], State]
    averaged: Callable[[], AbstractContextManager[None]]
    warnings: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    stop: str = ""
    failed: StudioError | None = None

    def floats(self) -> dict[str, float]:
        """The numbers."""
        return dict(self.numbers)


def floats(numbers: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Numbers as floats, in one transfer from the device."""
    tensors = {name: value for name, value in numbers.items() if isinstance(value, Tensor)}
    device = next((value.device for value in tensors.values() if value.device.type != "cpu"), None)
    values = [value.detach().float().reshape(()).to(device) for value in tensors.values()]
    moved = dict(zip(tensors, torch.stack(values).tolist() if values else [], strict=True))
    return {name: moved[name] if name in moved else float(value) for name, value in numbers.items()}
