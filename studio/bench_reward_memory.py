"""What learning by reward keeps in memory, by the sampler's steps: `python -m studio.bench_reward_memory`."""

from __future__ import annotations

import platform
import shlex
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from studio import registry
from studio.pipelines import backbone
from studio.pipelines.adapters import lora
from studio.pipelines.data_prompts import PromptStream
from studio.pipelines.protocols import Adapter, Backbone
from studio.trainers.base import Loss

PAGE = "reward_memory.md"
EVERY: dict[str, Any] = {"precision": "no", "guard": {"every": 0}, "prompts": {"texts": ["a dog", "a cat"]}}
FULL = {"truncation": {"mode": "full"}}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "AlignProp, all steps, plain": ("alignprop", {**FULL, "checkpointed": False}),
    "AlignProp, all steps, checkpointed": ("alignprop", {**FULL, "checkpointed": True}),
    "AlignProp, K = 1, plain": ("alignprop", {"truncation": {"mode": "last_k"}, "checkpointed": False}),
    "RLCM, one loss, H steps": ("rlcm", {}),
}
HEAD = """\
# Memory of learning by reward

`{command}`: {model}, {width} px, batch {batch}, guidance {scale:g} (RLCM:
none), LoRA of rank 8, reward jpeg-soft-bits, float32, {machine}, torch {torch}, {day}.

*Kept*: bytes that the graph holds for the backward pass of one loss, parameters left out, each storage once
(`saved_tensors_hooks`). *Peak*: most bytes of live tensors made while the loss is computed and goes back, counted
operation by operation. Neither depends on what else the machine does. The losses are the trainers' own, with text,
sampler, autoencoder and reward.

"""


@dataclass(frozen=True)
class Figures:
    """Bytes kept for the backward pass of one loss, and the most that was alive at once."""

    kept: int
    peak: int


@dataclass
class Kept:
    """Counts what graphs keep while it is on. known: storages that are there anyway, by address."""

    known: set[int]
    found: dict[int, int] = field(default_factory=dict)

    def pack(self, tensor: Tensor) -> Tensor:
        """A tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.found[storage.data_ptr()] = storage.nbytes()
        return tensor

    def hooks(self) -> saved_tensors_hooks:
        """The context in which it counts."""
        return saved_tensors_hooks(self.pack, lambda tensor: tensor)


class Live(TorchDispatchMode):
    """Counts the bytes of storages made while it is on. known: storages that are there anyway, by address."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.alive, self.bytes, self.peak = known, dict[int, int](), 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.see(leaf.untyped_storage())
        return out

    def see(self, storage: torch.UntypedStorage) -> None:
        """A storage that an operation returned: a new one, or one that lives already."""
        place = storage.data_ptr()
        if not place or place in self.known or place in self.alive:
            return
        self.alive[place] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self.gone, place)

    def gone(self, place: int) -> None:
        """A storage that is freed."""
        self.bytes -= self.alive.pop(place, 0)


def figures(make: Callable[[], Loss], modules: Sequence[nn.Module]) -> Figures:
    """Of one loss and its backward pass; the networks' own tensors do not count."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    known = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept = Kept(known)
    with Live(known) as live:
        with kept.hooks():
            loss = make()
        loss.value.backward()
    for parameter in tensors:
        parameter.grad = None
    return Figures(sum(kept.found.values()), live.peak)


def modules(model: Backbone) -> list[nn.Module]:
    """Every network of a model."""
    found = [model.net, *model.text_encoders.values(), getattr(model, "vae", None)]
    return [module for module in found if module is not None]


def loss(trainer: str, model: Backbone, adapter: Adapter, **settings: Any) -> Callable[[], Loss]:
    """A trainer's first loss, to be computed."""
    module = registry.trainer(trainer)
    config = module.Config(**{**EVERY, "reward": {"terms": ["jpeg-soft-bits"]}, **settings})
    dataset = config.data.read(model)
    stream = PromptStream(model, config.prompts.read(dataset, True), dataset, batch=config.batch, seed=0)
    losses: Iterator[Loss] = module.losses(config, model, adapter, stream, {})
    return lambda: next(losses)


def table(model: Backbone, steps: Sequence[int], batch: int, scale: float = 5.0) -> dict[str, list[Figures]]:
    """Figures of each way, by the sampler's steps."""
    torch.manual_seed(0)
    adapter = model.adapter or lora.Config(rank=8).build(model)
    latent = model.prediction != "flow"  # the trainer's few-step samplers
    found: dict[str, list[Figures]] = {}
    for name, (trainer, way) in WAYS.items():
        if trainer == "rlcm" and not latent:
            continue
        own = {"rollout": batch} if trainer == "rlcm" else {"guidance_scale": scale}
        makes = [loss(trainer, model, adapter, batch=batch, sampler_steps=t, **own, **way) for t in steps]
        found[name] = [figures(make, modules(model)) for make in makes]
    return found


def slope(steps: Sequence[int], values: Sequence[int]) -> float:
    """Bytes for each further step, from the first to the last."""
    return (values[-1] - values[0]) / (steps[-1] - steps[0])


def page(found: Mapping[str, Sequence[Figures]], steps: Sequence[int]) -> Iterator[str]:
    """The tables: kept, then peak."""
    for what in ("kept", "peak"):
        yield f"| {what}, MB | {' | '.join(f'{t} steps' for t in steps)} | each further step | of the plain one's |"
        yield f"|---|{'--:|' * (len(steps) + 2)}"
        plain = slope(steps, [getattr(one, what) for one in next(iter(found.values()))])
        for name, row in found.items():
            values = [getattr(one, what) for one in row]
            mine = slope(steps, values)
            cells = [*(f"{value / 1e6:.3f}" for value in values), f"{mine / 1e6:.4f}", f"{mine / plain:.2%}"]
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""


@dataclass(frozen=True)
class Bench:
    """Measure and write the page."""

    model: str = "embedded"
    """The model to measure on."""
    steps: tuple[int, ...] = (2, 4, 8, 16)
    """Sampler steps."""
    batch: int = 2
    """Pictures per loss."""
    machine: str = f"a CPU ({platform.machine()})"
    """What it runs on, for the page."""
    pages: Path = Path("assets/benchmarks")
    """Where the page goes."""


def main() -> None:
    """The command."""
    bench = tyro.cli(Bench, prog="python -m studio.bench_reward_memory", description=__doc__)
    model = backbone.load(bench.model)
    found = table(model, bench.steps, bench.batch)
    words = shlex.join(["python", "-m", "studio.bench_reward_memory", *sys.argv[1:]])
    head = HEAD.format(
        command=words, model=bench.model, width=model.pixels, batch=bench.batch, scale=5.0, machine=bench.machine,
        day=date.today(), torch=torch.__version__.partition("+")[0],
    )  # fmt: skip
    text = head + "\n".join(page(found, bench.steps))
    (bench.pages / PAGE).write_text(text.rstrip() + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
