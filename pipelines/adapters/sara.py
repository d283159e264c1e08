"""SaRA: train the entries of a network that are next to zero, in place. Hu et al., ICLR 2025, arXiv 2409.06633.

With M = (|P0| < threshold) in every tensor, p = P0[M] learns and P is P0 with p at M: no entry outside of M ever
changes. Half-way M shrinks to the entries that are still small; the others stay as they are by then.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from studio.pipelines.adapters import targets
from studio.pipelines.adapters.sara_place import Place, Seat, Written
from studio.pipelines.adapters.sara_select import THRESHOLD, Rule, Selection, candidates, rate, select
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.nuclear import nuclear
from studio.pipelines.settings import Part

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

LARGE, MANY = 64, 100  # a matrix has a rank worth lowering with more rows and columns, and more entries that learn
CHOSEN = "chosen"


class Config(Part):
    """Which entries of the network's tensors learn: the smallest of all of them together."""

    text_encoder: ClassVar[bool] = False  # the network alone learns

    threshold: Annotated[
        float | None, Field(ge=0, description="Entries smaller than this in magnitude learn; empty: 0.002")
    ] = None
    quantile: Annotated[
        float | None, Field(gt=0, le=1, description="Instead: the share of all entries, the smallest, that learns")
    ] = None
    targets: Annotated[
        str, Field(description="all; attention, ff, conv (joined by +); or a regular expression for parameter names")
    ] = "all"
    selection: Annotated[
        Rule, Field(description="smallest; to compare with: as many of the largest, or random ones")
    ] = "smallest"
    seed: Annotated[int, Field(ge=0, description="Of random choices: entries, and matrices whose rank is lowered")] = 0
    store: Annotated[
        Literal["values", "delta", "delta-fp16", "delta-bf16"],
        Field(description="What the file keeps of an entry: its value (exact), or its change in float32 or half of it"),
    ] = "values"
    exports: Annotated[
        tuple[Literal["lora", "full", "merged"], ...],
        Field(description="For other tools: nearest LoRA (lossy), LyCORIS 'full' (dense), the network with it in"),
    ] = ("lora", "full")

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.threshold is not None and self.quantile is not None:
            raise ValueError("threshold and quantile say the same thing in two ways: set one of them")
        return self

    def build(self, model: Backbone) -> SaRA:
        """A fresh adapter in `model`; UsageError when no entry is small enough or a tensor is quantised."""
        if "merged" in self.exports and not hasattr(model.net, "save_pretrained"):
            raise UsageError("adapter.exports: this model's network cannot be saved alone; leave 'merged' out")
        threshold = THRESHOLD if self.threshold is None else self.threshold
        chosen = select(candidates(model.net, self.targets), threshold, self.quantile, self.selection, self.seed)
        if not len(chosen):
            raise UsageError(
                f"adapter.threshold: no entry is smaller than {chosen.threshold:g}; use a larger one, or a quantile"
            )
        return SaRA(model, chosen, self)


class SaRA:
    """Entries of a frozen network that learn as float32 vectors, and lie in its tensors while it computes.

    Parameters are called `part.parameter.values`. UsageError when the model already carries an adapter.
    """

    kind = "sara"
    exact_off = True
    identity_at_init = True
    linear_scale = True
    conv_ok = True
    unmerged_ok = False  # it lies in the weights themselves: two strengths cannot share a batch
    trains_text = False

    def __init__(self, model: Backbone, chosen: Selection, config: Config) -> None:
        if model.adapter is not None:
            raise UsageError("the model already carries an adapter: call adapter.remove() before building another")
        self.model, self.config, self.threshold = model, config, chosen.threshold
        part, named = targets.part(model), dict(model.net.named_parameters())
        if not any(parameter.is_meta for parameter in named.values()):
            model.fingerprint()  # taken, and kept, while the weights are the base model's
        self.written, self.held = Written(), 0
        self.places = {  # in the network's order, whatever order a file has
            f"{part}.{name}": Place(weight, chosen.indices[name].to(weight.device), self.written)
            for name, weight in named.items()
            if name in chosen.indices
        }
        self.handles = [model.net.register_forward_pre_hook(self.sync), *self._sit()]
        model.adapter = self

    def _sit(self) -> Iterator[Any]:
        """Hooks on every module that has one of the parameters, also where two share it."""
        places = {id(place.weight): place for place in self.places.values()}
        for module in self.model.net.modules():
            for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                if id(parameter) in places:
                    seat = Seat(places[id(parameter)], key)
                    yield module.register_forward_pre_hook(seat.come)
                    yield module.register_forward_hook(seat.go, always_call=True)

    def parameters(self) -> list[nn.Parameter]:
        """Everything that learns."""
        return [place.vector for place in self.places.values()]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Everything that learns, as `part.parameter.values`, each `[n]`."""
        return {f"{name}.values": place.vector for name, place in self.places.items()}

    def buffers(self) -> list[Tensor]:
        """What it keeps besides: indices and the base model's values, for those who count memory."""
        return [tensor for place in self.places.values() for tensor in (place.index, place.original)]

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """One optimizer group; lr = 0 stands for the rate that belongs to the threshold."""
        return [{"params": self.parameters(), "lr": lr or rate(self.threshold)}]

    @property
    def audit_exceptions(self) -> dict[str, str]:
        """Parameters, as patterns, that no loss can teach, and why: the last block of an MMDiT drops its text."""
        dropped = [
            f"{targets.part(self.model)}.{name}.{query}.*"
            for name, module in self.model.net.named_modules()
            if getattr(module, "context_pre_only", False)
            for query in ("add_q_proj", "norm_added_q")
        ]
        return dict.fromkeys(dropped, "the last block drops what its text queries ask for")

    def numbers(self) -> dict[str, float]:
        """Shares of the chosen entries: those that still learn, and those that have outgrown the threshold."""
        total = sum(len(place.index) for place in self.places.values())
        learn = [len(p.index) if p.kept is None else int(p.kept.sum()) for p in self.places.values()]
        grown = sum(int((p.values().abs() >= self.threshold).sum()) for p in self.places.values())
        return {"learning": sum(learn) / total, "outgrown": grown / total}

    @property
    def enabled(self) -> bool:
        """False inside `off()`."""
        return self.written.strength != 0

    def at(self, t: Tensor) -> None:
        """The same at every timestep."""

    def train(self, mode: bool) -> None:
        """The same in training and outside."""

    def sync(self, *_: Any) -> None:
        """The vectors as they are now into the network: before each of its forward passes, whoever moved them."""
        if not self.held:
            self.write()

    def write(self) -> None:
        """The entries into the network's tensors, at the strength of this moment. UsageError where those are not."""
        for name, place in self.places.items():
            if not place.weight.numel():
                raise UsageError(f"offload: {name} waits elsewhere, and SaRA writes into it; leave offload off")
            place.write()

    def off(self) -> AbstractContextManager[None]:
        """Inside, the model is the base model bit for bit; may be nested."""
        return self.scaled(0)

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        """Inside, the update counts `strength` times: 0 is the base model exactly, nested ones multiply."""
        before = self.written.strength
        self.written.strength = before * strength
        if changed := self.written.strength != before:
            self.write()
        try:
            yield
        finally:
            self.written.strength = before
            if changed:
                self.write()

    @contextmanager
    def merged(self, strength: float = 1.0) -> Iterator[None]:
        """Inside, the weights hold the update and nothing is written before a forward pass. Not for training."""
        with self.scaled(strength):
            self.write()
            self.held += 1
            try:
                yield
            finally:
                self.held -= 1

    @contextmanager
    def folded(self, strength: float) -> Iterator[None]:
        """Inside, strength 1 is what `strength` is outside, and a file that is saved holds it."""
        before = [(place.vector.detach().clone(), place.fixed) for place in self.places.values()]
        try:
            for place in self.places.values():
                found = place.values(strength).clone()
                place.vector.data.copy_(found)
                place.fixed = None if place.fixed is None else found
            self.write()
            yield
        finally:
            for place, (vector, fixed) in zip(self.places.values(), before, strict=True):
                place.vector.data.copy_(vector)
                place.fixed = fixed
            self.write()

    def reselect(self) -> float:
        """Only chosen entries that are still below the threshold go on learning; the share of them.

        Their moments stay. Nothing changes when there would be none. For the largest and for random entries too.
        """
        small = [place.values().abs() < self.threshold for place in self.places.values()]
        if any(bool(one.any()) for one in small):
            for place in self.places.values():
                place.keep(self.threshold)
        return self.numbers()["learning"]

    def settle(self) -> None:
        """After an optimizer step: entries that are fixed are put back to the bit."""
        for place in self.places.values():
            place.settle()

    def nuclear(self, key: object) -> Tensor | None:
        """The nuclear norm of one matrix' learning entries, with a graph; None where no matrix is large enough.

        key: decides, with the settings' seed, which matrix is drawn.
        """
        wide = [p for p in self.places.values() if p.weight.ndim == 2 and min(p.weight.shape) > LARGE]
        worth = [place for place in wide if len(place.index) > MANY]
        return nuclear(random.Random(f"{self.config.seed} {key}").choice(worth).matrix()) if worth else None

    @cached_property
    def chosen(self) -> Tensor:
        """sha256 `[32]` of names and indices: entries are never taken for others of the same number."""
        total = sha256()
        for name, place in self.places.items():
            total.update(name.encode() + place.index.cpu().numpy().tobytes())
        return torch.frombuffer(bytearray(total.digest()), dtype=torch.uint8)

    def state_dict(self) -> dict[str, Tensor]:
        """Values and, as bool, which of them still learn."""
        state = {CHOSEN: self.chosen}
        for name, place in self.places.items():
            state[f"{name}.values"] = place.values()
            state[f"{name}.kept"] = torch.ones_like(place.index, dtype=torch.bool) if place.kept is None else place.kept
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts a state back; ModelError unless it is of these very entries."""
        ours = self.state_dict()
        odd = sorted(set(state) ^ set(ours))
        odd += [name for name in ours if name in state and state[name].shape != ours[name].shape]
        if not odd and not torch.equal(state[CHOSEN].cpu(), ours[CHOSEN]):
            odd = [CHOSEN]
        if odd:
            raise ModelError(f"the saved adapter is not this one: {len(odd)} tensors differ, the first is {odd[0]}")
        with torch.no_grad():
            for name, place in self.places.items():
                place.vector.copy_(state[f"{name}.values"])
                kept = state[f"{name}.kept"].to(place.index.device)
                whole = bool(kept.all())
                place.kept, place.fixed = (None, None) if whole else (kept, place.vector.detach().clone())
        self.write()

    def remove(self) -> None:
        """Out again: the model is the base model, as if it had never carried an adapter."""
        self.written.strength = 0.0
        self.write()
        for handle in self.handles:
            handle.remove()
        self.handles, self.places = [], {}
        self.model.adapter = None
