"""A trainer's generator of losses, with the rules of generators checked at every loss."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator

import torch

from studio import audit
from studio.pipelines.errors import StudioError
from studio.pipelines.protocols import Adapter
from studio.trainers.base import Loss


class Source:
    """A trainer's generator, checked at every loss."""

    def __init__(self, losses: Iterator[Loss], adapter: Adapter) -> None:
        self.losses, self.adapter = losses, adapter
        frame = getattr(losses, "gi_frame", None)
        module = frame.f_globals.get("__name__", "") if frame else type(losses).__module__
        self.name = module.rpartition(".")[2]
        # what need not learn, and why: by the adapter, and by the trainer's module
        self.exceptions = audit.exceptions(adapter, sys.modules.get(module))

    def next(self, step: int) -> Loss:
        """The next loss; StudioError, naming the trainer, when it ended or broke a rule."""
        try:
            loss = next(self.losses)
        except StopIteration:
            raise StudioError(f"trainer {self.name!r} gave no loss for step {step}: losses() must not end") from None
        if problem := self._problem(loss):
            self._close()
            raise StudioError(f"trainer {self.name!r}, step {step}: {problem}")
        return loss

    def _problem(self, loss: Loss) -> str:
        if not torch.is_grad_enabled():
            return "a `yield` inside no_grad; leave the block before yielding"
        if not getattr(self.adapter, "enabled", True):
            return "a `yield` inside adapter.off(); leave the block before yielding"
        if loss.value.numel() != 1:
            return f"a loss is one number, not a tensor of shape {tuple(loss.value.shape)}"
        if not loss.value.requires_grad:
            return "a loss that does not depend on the adapter (no gradient)"
        return ""

    def _close(self) -> None:
        """Lets the generator leave the contexts it yielded in."""
        if isinstance(self.losses, Generator):
            self.losses.close()
