"""T-LoRA: the noisier the picture, the fewer columns of the update act. Soboleva et al. 2025, arXiv 2507.05964."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from studio.pipelines.adapters import lora, targets
from studio.pipelines.adapters.lora import NAME, Layers, LoRA
from studio.pipelines.adapters.tlora_factors import Factors
from studio.pipelines.adapters.tlora_layer import Full, Vanilla, Which, cast, effective_rank, scaled_columns, triplets
from studio.pipelines.adapters.tlora_masks import Masks
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.settings import Part

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone


class Config(Part):
    """Which weights learn, with which rank at which timestep, and how they start."""

    targets: Annotated[
        str,
        Field(description="attention, ff, conv (joined by +), all, module suffixes a,b or a regular expression"),
    ] = "attention"
    rank: Annotated[int, Field(ge=1, le=4096, description="Rank without noise; the paper's is 64")] = 16
    r_min: Annotated[int | None, Field(ge=0, description="Rank in pure noise; empty or 0: half the rank")] = None
    power: Annotated[float, Field(gt=0, le=16, description="The rank falls as ((T - t) / T)^power")] = 1.0
    variant: Annotated[
        Literal["full", "vanilla"],
        Field(description="full: orthogonal start, frozen copy subtracted; vanilla: a LoRA, as the paper has on FLUX"),
    ] = "full"
    init: Annotated[Which, Field(description="Which singular vectors a full one starts from")] = "last"
    source: Annotated[Literal["random", "weights"], Field(description="Of a random matrix, or of the weights")] = (
        "random"
    )
    export_rank: Annotated[
        int | None,
        Field(ge=1, description="Also write a plain LoRA with this many columns at every timestep, for other tools"),
    ] = None

    @model_validator(mode="after")
    def _fits(self) -> Config:
        for name in ("r_min", "export_rank"):
            if (getattr(self, name) or 0) > self.rank:
                raise ValueError(f"{name} is {getattr(self, name)}, larger than the rank, {self.rank}")
        return self

    @property
    def least(self) -> int:
        """The rank in pure noise."""
        return self.r_min or max(1, self.rank // 2)

    def build(self, model: Backbone) -> TLoRA:
        """A fresh adapter in `model`; a layer narrower than the rank gets its width. UsageError when none matches."""
        widths = {
            name: min(self.rank, *targets.size(model.net.get_submodule(name)))
            for name in targets.find(model.net, self.targets)
        }
        layers: Layers = {targets.part(model): {name: (width, float(width)) for name, width in widths.items()}}
        return TLoRA(model, layers, self)


class TLoRA(LoRA):
    """Low-rank layers whose active rank follows the timestep of each sample, in training and in drawing.

    Columns past r(t) neither act nor learn at t; every tensor has columns that do at any t, so none is excused from
    the learning audit. period: the scheduler's T, default the model's; drawn: False where a start is loaded next.
    Weight decay pulls a full one towards W - U0 Q0 instead of W: keep it small.
    """

    kind = "tlora"
    config: Any  # a Config of ours

    def __init__(
        self, model: Backbone, layers: Layers, config: Config, period: int | None = None, drawn: bool = True
    ) -> None:
        super().__init__(model, layers, lora.Config(targets=config.targets, rank=config.rank))
        self.config = config
        period = period or int(model.scheduler.config.num_train_timesteps)
        try:
            self.masks = Masks(model.net, config.rank, config.least, config.power, period)
            self.factors = Factors(self.masks, list(self._wrapped.values()))
            for layer in self._wrapped.values():
                self._prepare(layer, drawn)
        except UsageError:
            self.remove()
            raise
        self._parameters = dict(self._learning())

    def _prepare(self, layer: Any, drawn: bool) -> None:
        """The arithmetic of one layer, and a start in which trained and frozen parts are equal."""
        layer._cast_input_dtype = cast
        if self.config.variant == "vanilla":
            layer.lora_variant[NAME] = Vanilla(self.masks)
            return
        layer.lora_variant[NAME] = Full(self.masks, self.factors)
        down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        s = torch.ones(down.shape[0], device=down.device)
        if drawn and not down.is_meta:  # on the meta device only shapes are asked for
            p, s, q = self._start(layer, down, up)
            down.data.copy_(q.reshape(down.shape))
            up.data.copy_(p.reshape(up.shape))
        layer.register_parameter("lora_S", nn.Parameter(s.clone()))
        layer.register_buffer("lora_base_A", down.detach().clone())
        layer.register_buffer("lora_base_B", scaled_columns(up.detach(), s))

    def _start(self, layer: Any, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """P, s and Q of one layer. Random matrices are drawn on the CPU, and so are the same on every device."""
        weight = layer.get_base_layer().weight
        if self.config.source == "random":
            matrix = torch.randn(up.shape[0], down[0].numel()) / self.config.rank
        elif type(weight.data) is Tensor and weight.is_floating_point():
            matrix = weight.detach().flatten(1)
        else:
            raise UsageError('adapter.source: quantised weights have no singular vectors here; use "random"')
        return triplets(matrix.to(down.device), down.shape[0], self.config.init)

    def _learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, layer in self._wrapped.items():
            for kind in ("lora_A", "lora_B"):
                yield f"{name}.{kind}.weight", self._parameters[f"{name}.{kind}.weight"]
            if self.config.variant == "full":
                yield f"{name}.lora_S.weight", layer.lora_S

    def frozen(self) -> dict[str, Tensor]:
        """The copies of the start that are subtracted: Q0, and U0 = P0 diag(s0), by the names a checkpoint has."""
        if self.config.variant == "vanilla":
            return {}
        kinds = {"lora_base_A.weight": "lora_base_A", "lora_base_B.weight": "lora_base_B"}
        return {f"{name}.{key}": getattr(w, kind) for name, w in self._wrapped.items() for key, kind in kinds.items()}

    def ups(self) -> dict[str, Tensor]:
        """The factor left of the mask of each layer, B or P diag(s), by `part.module`."""
        return {
            name: scaled_columns(w.lora_B[NAME].weight, w.lora_S).detach()
            if self.config.variant == "full"
            else w.lora_B[NAME].weight.detach()
            for name, w in self._wrapped.items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """What learned and what is subtracted: a checkpoint needs no drawing to be exact, on any machine."""
        return {**super().state_dict(), **self.frozen()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts the tensors back; ModelError unless names and shapes are exactly these."""
        frozen = self.frozen()
        for name, tensor in frozen.items():
            if name not in state or state[name].shape != tensor.shape:
                raise ModelError(f"the saved adapter is not this one: {name} is another there, or missing")
        super().load_state_dict({name: tensor for name, tensor in state.items() if name not in frozen})
        for name, tensor in frozen.items():
            tensor.copy_(state[name])

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """One optimizer group: only the network learns."""
        return [{"params": self.parameters(), "lr": lr}]

    def scales(self) -> dict[str, float]:
        """The factor on the update of each layer, by `part.module`."""
        return {f"{part}.{name}": a / r for part, layers in self.layers.items() for name, (r, a) in layers.items()}

    def at(self, t: Tensor) -> None:
        """The masks for t, in the network's unit, where layers are called without the network around them."""
        self.masks.see(t)

    @contextmanager
    def at_rank(self, rank: int) -> Iterator[None]:
        """Inside, the first `rank` columns act at every timestep."""
        with self.masks.hold(rank):
            yield

    @contextmanager
    def as_stock(self) -> Iterator[None]:
        """Inside, every column acts at every timestep: what a tool without schedules makes of the file."""
        with self.masks.hold(self.config.rank):
            yield

    @contextmanager
    def merged(self, strength: float = 1.0) -> Iterator[None]:
        """`scaled`: no weights can hold a rank that changes with the timestep."""
        with self.scaled(strength):
            yield

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know before training: layers that are narrower than the rank."""
        ranks = [rank for layers in self.layers.values() for rank, _ in layers.values()]
        narrow = [rank for rank in ranks if rank < self.config.rank]
        if not narrow:
            return ()
        which = f"{len(narrow)} of {len(ranks)} layers are narrower than adapter.rank = {self.config.rank}"
        return (f"{which}: each has as many columns as its width, {min(narrow)} at the least",)

    def numbers(self) -> dict[str, float]:
        """Means over layers of the effective rank (95 % of the sum of singular values), and over the newest batch of
        the active rank; largest and smallest singular value in s, which set how fast layers learn.
        """
        ranks = [effective_rank(up) for up in self.ups().values()]
        numbers = {"effective_rank": sum(ranks) / len(ranks)}
        if self.masks.active is not None:
            numbers["active_rank"] = float(self.masks.active.double().mean())
        if self.config.variant == "full":
            values = torch.cat([layer.lora_S.detach().abs() for layer in self._wrapped.values()])
            numbers |= {"largest_s": float(values.max()), "smallest_s": float(values.min())}
        return numbers

    def remove(self) -> None:
        """Takes layers and hooks out again: the model is the base model."""
        for part in ("masks", "factors"):
            if hasattr(self, part):
                getattr(self, part).remove()
        super().remove()
