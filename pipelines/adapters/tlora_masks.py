"""When T-LoRA's columns act: the schedule of ranks, and the hook that reads every timestep the network sees."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studio.pipelines.errors import StudioError, UsageError

NAMES = ("timestep", "t")  # what networks call it
# how stock pipelines hand the scheduler's time to these networks; all others get it as it is
THOUSANDTHS = frozenset(
    f"{name}Transformer2DModel"
    for name in ("Flux", "Flux2", "Chroma", "QwenImage", "LongCatImage", "OvisImage", "AuraFlow")
)
BACKWARDS = frozenset({"Lumina2Transformer2DModel", "ZImageTransformer2DModel"})  # 1 - t / 1000


class Pattern:
    """Zeros and ones `[B or 1, rank]` of one pass, in the shapes that its layers ask for."""

    def __init__(self, rank: int, ranks: Tensor) -> None:
        self.columns = (torch.arange(rank, device=ranks.device) < ranks[:, None]).float()
        self.shapes: dict[tuple[Any, ...], Tensor] = {}

    def like(self, h: Tensor, channel: int, copies: int) -> Tensor:
        """What to multiply `h` with. A layer narrower than the rank has the first columns only.

        Layers that fold other dimensions into the batch (frames, windows) keep samples together.
        """
        key = h.ndim, channel, h.shape[0], h.shape[channel], copies, h.dtype, h.device
        if key not in self.shapes:
            mask = self.columns[:, : h.shape[channel] // copies].to(h).repeat(1, copies)
            if len(mask) not in (1, len(h)):
                if len(h) % len(mask):
                    raise StudioError(f"T-LoRA: a layer got {len(h)} rows in a batch of {len(mask)} samples")
                mask = mask.repeat_interleave(len(h) // len(mask), 0)
            shape = [len(mask)] + [1] * (h.ndim - 1)
            shape[channel] = -1
            self.shapes[key] = mask.view(shape)
        return self.shapes[key]


class Masks:
    """The columns that act in the forward pass under way: the first r(t), with each sample's own t.

    r(t) = floor(((T - t) / T)^power (rank - least)) + least, T = period. `now` is None where every column acts;
    `active` has the ranks of the newest pass that learns. Raises UsageError for a network whose timestep is not seen.
    """

    def __init__(self, net: nn.Module, rank: int, least: int, power: float, period: int) -> None:
        self.net, self.rank, self.least, self.power, self.period = net, rank, least, power, period
        parameters = list(inspect.signature(type(net).forward).parameters)[1:]
        found = [name for name in NAMES if name in parameters]
        if not found:
            raise UsageError(f"adapter: T-LoRA needs a network that is given a timestep; {type(net).__name__} is not")
        self.name, self.place = found[0], parameters.index(found[0])
        self.kinds = {kind.__name__ for kind in type(net).__mro__}
        self.now: Pattern | None = None
        self.active: Tensor | None = None
        self.held: int | None = None
        self.blocks = [module for module in net.modules() if hasattr(module, "gradient_checkpointing")]
        self.handle = net.register_forward_pre_hook(self.before, with_kwargs=True)

    def before(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The hook: as the network is called, by us or by a stock pipeline."""
        self.see(kwargs[self.name] if self.name in kwargs else args[self.place])
        if torch.is_grad_enabled():
            self._remember()

    def see(self, t: Tensor | float) -> None:
        """The masks for a pass at t, one number or `[B]`, in the network's own unit."""
        ranks = self.ranks(self.times(t))
        if torch.is_grad_enabled():
            self.active = ranks
        whole = self.least >= self.rank or (self.held is not None and self.held >= self.rank)
        self.now = None if whole else Pattern(self.rank, ranks)

    def times(self, t: Tensor | float) -> Tensor:
        """The scheduler's times `[B]`, 0 to `period`, from the network's. StudioError for a time per token."""
        time = torch.as_tensor(t, device=next(self.net.parameters()).device).reshape(-1)
        if getattr(t, "ndim", 0) > 1:
            raise StudioError(f"T-LoRA masks whole samples, and the network got timesteps of {tuple(t.shape)}")  # type: ignore[union-attr]
        # in the type it came in: a float32 0.3 times 1000 is 300, in float64 it is a little more
        if self.kinds & THOUSANDTHS:
            return time * 1000
        return (1 - time) * 1000 if self.kinds & BACKWARDS else time

    def ranks(self, times: Tensor) -> Tensor:
        """r(t) `[B]` of the scheduler's times `[B]`; the held rank where one is held."""
        # float64, which Apple's GPUs lack: exact for every whole t
        left = self.period - (times.cpu() if times.device.type == "mps" else times).double().clamp(0, self.period)
        if self.held is not None:
            return torch.full_like(left, self.held).long()
        span, share = self.rank - self.least, left / self.period
        grown = span * left / self.period if self.power == 1 else span * share**self.power + 1e-9
        return grown.floor().long() + self.least

    def apply(self, h: Tensor, channel: int, copies: int = 1) -> Tensor:
        """`h` with zeros in the columns that do not act, in place. h: `[B, ...]`, its ranks in dimension `channel`.

        copies: how often it has all of them, one set after another.
        """
        return h if self.now is None else h.mul_(self.now.like(h, channel, copies))

    @contextmanager
    def hold(self, rank: int) -> Iterator[None]:
        """Inside, this many columns act at every timestep."""
        kept = self.held, self.now
        self.held = rank
        self.now = None if rank >= self.rank else Pattern(self.rank, torch.tensor([rank]))
        try:
            yield
        finally:
            self.held, self.now = kept

    def _remember(self) -> None:
        """Checkpointed blocks are computed again with the masks of their own pass; switched on after we came, too."""
        for block in self.blocks:
            function = getattr(block, "_gradient_checkpointing_func", None)
            if block.gradient_checkpointing and function is not None and not isinstance(function, Again):
                block._gradient_checkpointing_func = Again(self, function)  # type: ignore[assignment]

    def remove(self) -> None:
        """The network as it was."""
        self.handle.remove()
        for block in self.blocks:
            function = getattr(block, "_gradient_checkpointing_func", None)
            if isinstance(function, Again):
                block._gradient_checkpointing_func = function.function  # type: ignore[assignment]


@dataclass
class Again:
    """diffusers' checkpointing function of a block, around what brings back the masks of the first time."""

    masks: Masks
    function: Callable[..., Any]

    def __call__(self, module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        then = self.masks.now

        def masked(*inputs: Any, **options: Any) -> Any:
            before, self.masks.now = self.masks.now, then
            try:
                return module(*inputs, **options)
            finally:
                self.masks.now = before

        return self.function(masked, *args, **kwargs)
