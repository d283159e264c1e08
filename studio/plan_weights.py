"""What lies in memory through a phase: the networks' weights, the adapter, its gradients, the optimizer's state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from studio.config import RunConfig
from studio.pipelines.protocols import Backbone
from studio.plan_live import nbytes
from studio.undo import LIMIT

SMALL = 4096  # elements below which the 8-bit optimizer keeps 32-bit state (bitsandbytes' min_8bit_size)
BLOCK = 256  # elements that share one scale there
QUANTISED = {"no": 1.0, "int8": 0.5}  # of two bytes per weight, scales included
AFTER_TRAINING = ("train", "preview", "export", "check")


def two(parameter: Tensor) -> int:
    """Two float32 moments."""
    return 8 * parameter.numel()


def eight_bit(parameter: Tensor) -> int:
    """Two 8-bit moments, with a float32 scale per block each, and two tables of 256 float32."""
    count = parameter.numel()
    return two(parameter) if count < SMALL else 2 * (count + 4 * math.ceil(count / BLOCK))


def factored(parameter: Tensor) -> int:
    """Row and column sums of the second moment (torch's Adafactor): no first moment."""
    if parameter.ndim < 2:
        return 4 * parameter.numel()
    *lead, rows, columns = parameter.shape
    return 4 * math.prod(lead) * (rows + columns)


STATE: dict[str, Callable[[Tensor], int]] = {
    "adamw": two,
    "adamw8bit": eight_bit,
    "prodigy": lambda parameter: 16 * parameter.numel(),  # two moments, the start, and the sum it measures with
    "adafactor": factored,
    "schedulefree": two,  # the second moment and the point it walks
    "sgd": lambda parameter: 4 * parameter.numel(),
}


@dataclass(frozen=True)
class Weights:
    """Bytes by what they are; networks by name and type."""

    networks: dict[str, int]
    encoders: frozenset[str]
    adapter: int
    gradients: int
    optimizer: int
    ema: int
    undo: int
    free_encoders: bool

    @classmethod
    def of(cls, config: RunConfig, model: Backbone) -> Weights:
        """Counted on a model with its adapter."""
        settings = config.settings
        learn = [] if model.adapter is None else model.adapter.parameters()
        ours = {id(parameter) for parameter in learn}
        networks: dict[str, int] = {}
        encoders, text = set(), model.adapter is not None and model.adapter.trains_text
        for name, part in model.modules().items():  # type: ignore[attr-defined]
            frozen = [t for t in (*part.parameters(), *part.buffers()) if id(t) not in ours]
            size = nbytes(frozen)
            if name == model.net_name:
                size -= saved(part, ours, getattr(settings, "quantize", "no"), getattr(settings, "offload", False))
            label = f"{name} {kind(frozen)}"
            networks[label] = size
            if name != model.net_name and not (text and name in model.text_encoders):
                encoders.add(label)
        held = sum(STATE.get(settings.optimizer, two)(parameter) for parameter in learn)
        return cls(
            networks=networks,
            encoders=frozenset(encoders),
            adapter=nbytes([*learn, *getattr(model.adapter, "buffers", list)()]),
            gradients=nbytes(learn),
            optimizer=held,
            ema=nbytes(learn) if settings.ema else 0,
            undo=held + nbytes(learn) if held + nbytes(learn) <= LIMIT else 0,
            free_encoders=bool(getattr(settings, "free_encoders", False)),
        )

    def resident(self, phase: str) -> dict[str, int]:
        """What lies there through the phase."""
        networks = dict(self.networks)
        if phase == "train" and self.free_encoders:
            networks = {name: size for name, size in networks.items() if name not in self.encoders}
        if phase == "check":  # the file is tried on a second, fresh model
            networks |= {f"fresh {name}": size for name, size in self.networks.items()}
        parts = networks | ({} if phase == "load" else {"adapter": self.adapter})
        kept = {"optimizer": self.optimizer, "ema": self.ema, "before the step": self.undo}
        return parts | (kept if phase in AFTER_TRAINING else {})


def kind(tensors: list[Tensor]) -> str:
    """The type of most bytes."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        name = str(tensor.dtype).removeprefix("torch.")
        sizes[name] = sizes.get(name, 0) + nbytes([tensor])
    return max(sizes, key=lambda name: sizes[name]) if sizes else ""


def saved(net: nn.Module, ours: set[int], quantize: str, offload: bool) -> int:
    """Bytes of the frozen network that quantising its linear layers or keeping its weights elsewhere saves."""
    linear = [p for part in net.modules() if isinstance(part, nn.Linear) for p in [part.weight] if id(p) not in ours]
    smaller = sum(int(nbytes([p]) - 2 * p.numel() * QUANTISED[quantize]) for p in linear) if quantize != "no" else 0
    if not offload:
        return max(smaller, 0)
    frozen = [p for p in net.parameters() if id(p) not in ours]
    return nbytes(frozen) - max(map(lambda p: nbytes([p]), frozen), default=0)
