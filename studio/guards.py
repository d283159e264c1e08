"""Nothing that is not finite is stepped on or saved: what was bad first, and what to try."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from studio.pipelines import rewards_blame
from studio.pipelines.errors import NumericalError
from studio.pipelines.protocols import Backbone, Batch, Stream
from studio.snapshot import State, randomness, set_randomness

if TYPE_CHECKING:
    from studio.loop import Tick
    from studio.trainers.base import Settings

Named = Mapping[str, nn.Parameter]


class NotFinite(NumericalError):
    """A loss, number, gradient or weight that is not finite.

    last: the tick before, with everything in memory as it was then, so that its state can be saved; None where
    there was none, or where it is not worth keeping.
    """

    def __init__(self, message: str, last: Tick | None = None) -> None:
        super().__init__(message)
        self.last = last


class Before:
    """What a step uses up before it is known to be good: random numbers, the trainer's memory, batches."""

    def __init__(self, memory: dict[str, Any], data: Stream | None) -> None:
        self.memory, self.data, self.random, self.kept = memory, data, randomness(), State()
        self.kept.put("memory", memory)
        self.position = 0 if data is None else data.position

    def batches(self) -> list[Batch]:
        """The batches taken since, made again; none where the stream cannot."""
        at = getattr(self.data, "at", None)
        return [] if self.data is None or at is None else [at(p) for p in range(self.position, self.data.position)]

    def back(self) -> None:
        """Everything as it was."""
        self.memory.clear()
        self.memory.update(self.kept.get("memory"))
        set_randomness(self.random)
        if self.data is not None:
            self.data.position = self.position


def first_bad(model: Backbone, named: Named, numbers: Mapping[str, float], batches: list[Batch]) -> tuple[str, str]:
    """Kind and name of the first tensor that is not finite, in the order in which a step computes them."""
    for kind, name, tensor in _computed(model, named, numbers, batches):
        if not torch.isfinite(tensor).all():
            return kind, name
    return ("loss", "the loss") if not math.isfinite(numbers.get("loss", 0.0)) else ("norm", "the gradients' norm")


def _computed(
    model: Backbone, named: Named, numbers: Mapping[str, float], batches: list[Batch]
) -> Iterator[tuple[str, str, Tensor]]:
    yield from (("weight", f"weight {name}", p) for name, p in named.items())
    yield from (("frozen", f"frozen weight {name}", p) for name, p in _frozen(model))
    for batch in batches:
        yield from (("latents", f"latents of {name}", row) for name, row in zip(batch.ids, batch.latents, strict=True))
    for prompt in dict.fromkeys(prompt for batch in batches for prompt in batch.prompts):
        with torch.no_grad():
            cond = model.embed([prompt])
        for tensor in (cond.tokens, cond.pooled):
            if tensor is not None:
                yield "embedding", f"embedding of {_short(prompt)!r}", tensor
    yield from (("number", f"number {name!r}", torch.tensor(v)) for name, v in numbers.items() if name != "loss")
    gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
    blamed = rewards_blame.culprits()
    if not all(gradient.isfinite().all() for gradient in gradients.values()):
        yield from (("reward", f"the gradient of reward term {name!r}", torch.tensor(math.nan)) for name in blamed)
    yield from (("gradient", f"gradient of {name}", gradient) for name, gradient in gradients.items())


def _frozen(model: Backbone) -> Iterator[tuple[str, Tensor]]:
    """The parameters that do not learn, by the names they have without an adapter."""
    parts = {model.net_name: model.net, **model.text_encoders, "vae": getattr(model, "vae", None)}
    for part, module in parts.items():
        for name, parameter in module.named_parameters() if module is not None else ():
            if not parameter.requires_grad:
                yield f"{part}.{name}".replace(".base_layer", ""), parameter


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 60 else f"{prompt[:57]}..."


def advice(kind: str, settings: Settings, mixed: str, frozen: torch.dtype) -> str:
    """What to try. kind: from `first_bad`; mixed: accelerate's precision; frozen: dtype of the frozen parts."""
    half = str(frozen).removeprefix("torch.") if frozen != torch.float32 else ""
    if kind == "latents":
        return (
            f"the autoencoder overflowed in {half}: use a float32 one, precision = 'no'"
            if half
            else "look at that picture, or leave it out"
        )
    if kind == "embedding" and half:
        return f"the text encoder overflowed in {half}: use a float32 one, precision = 'no'"
    if kind in ("embedding", "frozen") and mixed != "fp16":
        return "the base model's files are damaged: get them again"
    if mixed == "fp16":
        return "float16 overflows easily: use precision = 'bf16', or 'no'"
    if kind == "reward":
        return "its number is finite and its gradient is not (a root or a quotient at 0?): mend it, or take it out"
    clip = " and clip = 1" if settings.clip == 0 else ""
    wide = ", or precision = 'no'" if mixed == "bf16" else ""
    rate = f"lr = {settings.lr / 10:g}" if settings.lr else "lr = 1e-5"  # 0: the trainer's own formula
    return f"use a smaller learning rate, {rate}{clip}{wide} (--accept-change goes on with it)"


def refuse_to_save(state: State, groups: Iterable[str]) -> None:
    """NotFinite when a tensor of these groups is not finite: a checkpoint of it would be the newest, and useless."""
    for group in groups:
        for name, tensor in state.tensors.get(group, {}).items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise NotFinite(
                    f"no checkpoint was written: {name} is not finite; the newest checkpoint is from before, go on "
                    "from it with half the learning rate"
                )
