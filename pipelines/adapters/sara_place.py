"""A tensor of the network of which some entries learn: their vector, written into it before it is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from studio.pipelines.errors import StudioError


@dataclass
class Written:
    """How much of the update lies in the network's weights now: 0 is the base model, 1 what was learnt."""

    strength: float = 1.0


@dataclass(eq=False)
class Place:
    """One parameter of the network and the entries of it that learn.

    weight: the frozen parameter, any shape; index: ascending flat indices `[n]`; original: the base model's values
    there, in its dtype; vector: what learns, float32 at least. After `keep`, entries that are not kept stay at `fixed`.
    """

    weight: nn.Parameter
    index: Tensor
    written: Written
    original: Tensor = field(init=False)
    vector: nn.Parameter = field(init=False)
    kept: Tensor | None = None
    fixed: Tensor | None = None

    def __post_init__(self) -> None:
        self.original = self.weight.data.view(-1)[self.index.long()]
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        self.vector = nn.Parameter(self.original.to(wide, copy=True))

    def values(self, strength: float = 1.0) -> Tensor:
        """What the entries are at a strength, in the vector's dtype: base + strength * (learnt - base)."""
        learnt = self.composed(self.vector.detach())
        base = self.original.to(learnt.dtype)
        return learnt if strength == 1 else base if strength == 0 else base + strength * (learnt - base)

    def composed(self, learnt: Tensor) -> Tensor:
        """`learnt` where entries still learn; whatever an optimizer did to the others is of no account."""
        return learnt if self.kept is None or self.fixed is None else torch.where(self.kept, learnt, self.fixed)

    @torch.no_grad()
    def write(self) -> None:
        """The entries into the network's tensor, rounded to its dtype; the original bits at strength 0."""
        if self.vector.device != self.weight.device:
            self.move(self.weight.device)
        strength = self.written.strength
        found = self.original if strength == 0 else self.values(strength)
        # .data: a graph that holds this tensor need not mind, since it is always written back (see Entries)
        self.weight.data.view(-1).index_copy_(0, self.index.long(), found.to(self.weight.dtype))

    def move(self, device: torch.device) -> None:
        """Everything to the network's device."""
        self.vector.data = self.vector.data.to(device)
        self.index, self.original = self.index.to(device), self.original.to(device)
        if self.kept is not None and self.fixed is not None:
            self.kept, self.fixed = self.kept.to(device), self.fixed.to(device)

    def gather(self, dense: Tensor) -> Tensor:
        """The gradient of the vector, out of the whole tensor's."""
        found = dense.reshape(-1).index_select(0, self.index).to(self.vector.dtype)
        return found if self.kept is None else found * self.kept

    @torch.no_grad()
    def keep(self, threshold: float) -> None:
        """Of the entries that learn, those below the threshold go on; the others are fixed as they are."""
        self.settle()
        small = self.vector.detach().abs() < threshold
        self.kept = small if self.kept is None else self.kept & small
        self.fixed = self.vector.detach().clone()

    @torch.no_grad()
    def settle(self) -> None:
        """Takes back what weight decay and momentum did to entries that are fixed."""
        self.vector.copy_(self.composed(self.vector))

    def matrix(self) -> Tensor:
        """The entries that learn, with their values and everything else zero, in the tensor's shape, with a graph."""
        values = self.vector if self.kept is None else self.vector * self.kept
        return values.new_zeros(self.weight.numel()).index_copy(0, self.index.long(), values).view(self.weight.shape)


class Entries(torch.autograd.Function):
    """vector -> the network's tensor with its values in it; the dense gradient is gathered, and gone, at once.

    At full strength the result shares the weight's memory: nothing is copied. At any other it is a copy, because what
    a graph has kept must be there in its backward pass.
    """

    @staticmethod
    def forward(ctx: Any, vector: Tensor, place: Place) -> Tensor:
        ctx.place, ctx.strength = place, place.written.strength
        ctx.save_for_backward(vector)  # an optimizer step before the backward pass is then an error, not a wrong number
        return place.weight.data if ctx.strength == 1 else place.weight.data.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        place, (_,) = ctx.place, ctx.saved_tensors
        if ctx.strength == 1 and place.written.strength != 1:
            raise StudioError("a backward pass inside off() or scaled() of a loss from outside: leave the block first")
        found = place.gather(gradients[0])
        return (found if ctx.strength == 1 else found * ctx.strength), None


@dataclass(eq=False)
class Seat:
    """Where a module has a place's parameter: during its forward pass the tensor with a graph stands there."""

    place: Place
    key: str

    def come(self, module: nn.Module, *_: Any) -> None:
        """Before the module computes; without gradients the weight itself is right."""
        if not torch.is_grad_enabled():
            return
        base = self.place.written.strength == 0
        seen: Any = self.place.weight.data.clone() if base else Entries.apply(self.place.vector, self.place)
        module._parameters[self.key] = seen

    def go(self, module: nn.Module, *_: Any) -> None:
        """After it, or when it was left by an error."""
        module._parameters[self.key] = self.place.weight
