"""What an earlier start of a run left, and whether this one may go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from studio import checkpoints
from studio.basis import Basis, fixed
from studio.checkpoints import Checkpoint
from studio.loop import Engine
from studio.pipelines.protocols import Adapter
from studio.refit import refitted
from studio.snapshot import State
from studio.store import Run, refuse


@dataclass(frozen=True)
class Past:
    """checkpoint: the newest valid one; damaged: those that are newer, with the reason; accepted: the basis that
    the last start went on with.
    """

    checkpoint: Checkpoint | None
    damaged: list[str]
    accepted: Basis | None

    @classmethod
    def of(cls, run: Run) -> Past:
        """The past of a run; empty for one that has taken no step."""
        found, damaged = checkpoints.newest(run.checkpoints)
        return cls(found, damaged, run.basis() if run.begun() else None)

    @property
    def step(self) -> int:
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def basis(self) -> Basis | None:
        """What the state was trained with, as its checkpoint says; without one, as env.json says."""
        return Basis.read(self.checkpoint.meta.get("basis")) if self.checkpoint else self.accepted

    def admit(self, run: Run, now: Basis, adapter: Adapter, accept: bool) -> list[str]:
        """What is different now and was accepted; [] when nothing is, or when an earlier start accepted it.

        Raises UsageError with the differences, without `accept` or when the checkpoint cannot be carried over.
        """
        if self.basis is None:
            return []
        changes = [] if now == self.accepted else self.basis.changes(now)
        never = ""
        if self.checkpoint is not None:
            never = fixed(self.basis.config, now.config) or misfit(self.checkpoint.tensors("adapter"), adapter)
        if never and not changes:
            changes = ["the adapter's tensors"]
        refuse(run, changes, never, accept)
        return changes

    def state(self, now: Basis, engine: Engine) -> tuple[State | None, int]:
        """State and data position to go on from; (None, 0) to start. Where settings were changed, they count."""
        if self.checkpoint is None:
            return None, 0
        meta = dict(self.checkpoint.meta)
        position = int(meta.pop("position"))
        old = self.basis
        if old is not None:  # a smaller batch with more accumulation: as many pictures, more batches
            position = position * now.config["settings.accumulate"] // old.config["settings.accumulate"]
        groups = {name: self.checkpoint.tensors(name) for name in self.checkpoint.names()}
        state = State(groups, meta)
        return (state if old is None or old.config == now.config else refitted(state, engine)), position


def misfit(saved: Mapping[str, Tensor], adapter: Adapter) -> str:
    """Why saved tensors do not fit an adapter, or ''."""
    mine = {f"adapter.{name}": tensor.shape for name, tensor in adapter.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in saved.items()}
    odd = sorted(name for name in mine.keys() | shapes.keys() if mine.get(name) != shapes.get(name))
    return f"{len(odd)} tensors of the checkpoint's adapter do not fit, the first is {odd[0]}" if odd else ""
