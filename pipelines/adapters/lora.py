"""LoRA: low-rank updates of a frozen network, through peft. Hu et al. 2021, arXiv 2106.09685."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from studio.pipelines.adapters import merging, targets
from studio.pipelines.errors import ModelError, StudioError, UsageError
from studio.pipelines.settings import Part

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

Layers = dict[str, dict[str, tuple[int, float]]]
"""Part of the pipeline -> module name -> (rank, alpha)."""

NAME = "default"  # peft's name for the one adapter a network carries
WEIGHTS = ("lora_A", "lora_B", "lora_magnitude_vector")


class Config(Part):
    """Which weights learn, and how: y = W x + (alpha / rank) B A x with B = 0 at the start."""

    targets: Annotated[
        str,
        Field(description="attention, ff, conv (joined by +), all, module suffixes a,b or a regular expression"),
    ] = "attention"
    rank: Annotated[int, Field(ge=1, le=4096, description="Rank of the update")] = 8
    alpha: Annotated[float | None, Field(gt=0, description="Strength is alpha / rank; empty: alpha = rank")] = None
    dropout: Annotated[float, Field(ge=0, lt=1, description="Share of the update's inputs dropped in training")] = 0.0
    rslora: Annotated[bool, Field(description="Strength alpha / sqrt(rank) instead (rank-stabilised LoRA)")] = False
    dora: Annotated[bool, Field(description="Learn magnitude and direction apart (DoRA)")] = False
    init: Annotated[
        Literal["gaussian", "kaiming", "eva"],
        Field(description="How A starts; eva: as main directions of the layer's inputs. B starts at zero"),
    ] = "gaussian"
    freeze_a: Annotated[bool, Field(description="Only B learns: half the parameters; A is the seed's")] = False
    family: Annotated[
        Literal["lora", "loha", "lokr", "oft", "ia3"],
        Field(description="Form of the update; rank is the block size of oft, and nothing to ia3"),
    ] = "lora"
    factor: Annotated[
        int, Field(ge=-1, le=4096, description="Size of lokr's first factor; -1: as square as can be")
    ] = -1
    text_encoder: Annotated[bool, Field(description="Teach the CLIP text encoders too")] = False
    text_encoder_lr: Annotated[float, Field(ge=0, description="Their learning rate; 0: the same")] = 0.0

    def build(self, model: Backbone) -> LoRA:
        """A fresh adapter in `model`; UsageError when no layer matches or the rank is larger than a layer."""
        _refuse_second(model)
        if self.family != "lora" or self.freeze_a or self.init == "eva":
            from studio.pipelines.adapters import families

            return families.build(self, model)
        layers = self.layers(model)
        for part, names in layers.items():
            targets.check_ranks(targets.roots(model)[part], part, names)
        return LoRA(model, layers, self)

    def layers(self, model: Backbone) -> Layers:
        """The layers that `targets` means, each with its rank and alpha; UsageError when there is none."""
        strength = (self.rank, float(self.rank if self.alpha is None else self.alpha))
        layers: Layers = {targets.part(model): dict.fromkeys(targets.find(model.net, self.targets), strength)}
        if self.text_encoder:
            layers |= {
                part: dict.fromkeys(targets.find(encoder, targets.TEXT), strength)
                for part, encoder in targets.teachable(model).items()
            }
        return layers


class LoRA:
    """Low-rank layers in a network (and its text encoders) that can be switched off, scaled and taken out.

    layers: part -> module name -> (rank, alpha). Trainable parameters are float32 whatever the base is.
    Raises UsageError when the model already carries an adapter.
    """

    kind = "lora"
    exact_off = True
    identity_at_init = True
    conv_ok = True
    unmerged_ok = True

    def __init__(self, model: Backbone, layers: Layers, config: Config) -> None:
        _refuse_second(model)
        self.model, self.layers, self.config = model, layers, config
        self.linear_scale = not config.dora
        roots = targets.roots(model)
        self._tuners = {part: _inject(roots[part], names, config) for part, names in layers.items()}
        self._wrapped = {
            f"{part}.{name}": self._tuners[part].model.get_submodule(name) for part in layers for name in layers[part]
        }
        self._parameters = dict(self._collect())
        self._dropouts = [layer.lora_dropout[NAME] for layer in self._wrapped.values()]
        self._offs, self._merged = 0, False
        self.train(False)
        model.adapter = self

    def _collect(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Adapter parameters by a stable name, without peft's adapter name, cast to float32."""
        for name, layer in self._wrapped.items():
            for kind in WEIGHTS:
                holder = getattr(layer, kind)
                if NAME in holder:
                    parameter = holder[NAME].weight
                    parameter.data = parameter.data.float()
                    yield f"{name}.{kind}.weight", parameter

    def parameters(self) -> list[nn.Parameter]:
        """Everything that learns."""
        return list(self._parameters.values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Everything that learns, as `part.module.lora_A.weight`, unique over network and text encoders."""
        return dict(self._parameters)

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups: the network, then the text encoders with their own learning rate."""
        net = f"{targets.part(self.model)}."
        inside = [p for name, p in self._parameters.items() if name.startswith(net)]
        text = [p for name, p in self._parameters.items() if not name.startswith(net)]
        groups = [{"params": inside, "lr": lr}, {"params": text, "lr": self.config.text_encoder_lr or lr}]
        return [group for group in groups if group["params"]]

    @property
    def trains_text(self) -> bool:
        """Whether text embeddings depend on what learns."""
        return any(part in self.model.text_encoders for part in self.layers)

    @property
    def audit_exceptions(self) -> dict[str, str]:
        """Parameters, as patterns, that no loss can teach, and why: the last block of an MMDiT drops its text."""
        dropped = [
            f"{part}.{name}"
            for part in self.layers
            for name in self.layers[part]
            if name.endswith(".add_q_proj")
            and getattr(self._tuners[part].model.get_submodule(name.rpartition(".")[0]), "context_pre_only", False)
        ]
        return {f"{name}.*": "the last block drops what its text queries ask for" for name in dropped}

    @property
    def enabled(self) -> bool:
        """False inside `off()`."""
        return self._offs == 0

    def at(self, t: Tensor) -> None:
        """LoRA is the same at every timestep."""

    def train(self, mode: bool) -> None:
        """Dropout on (training) or off; the frozen network stays in eval mode."""
        for dropout in self._dropouts:
            dropout.train(mode)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is the base model bit for bit; may be nested."""
        self._refuse_merged()
        self._offs += 1
        self._switch()
        try:
            yield
        finally:
            self._offs -= 1
            self._switch()

    def _switch(self) -> None:
        # peft's enable_adapters() also flips requires_grad, which a half-built graph must not see
        for layer in self._wrapped.values():
            layer._disable_adapters = self._offs > 0

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        """Inside, the update counts `strength` times: 0 is the base model exactly, nested ones multiply."""
        if strength == 0:
            with self.off():
                yield
            return
        self._refuse_merged()
        before = {name: layer.scaling[NAME] for name, layer in self._wrapped.items()}
        for name, layer in self._wrapped.items():
            layer.scaling[NAME] = before[name] * strength
        try:
            yield
        finally:
            for name, layer in self._wrapped.items():
                layer.scaling[NAME] = before[name]

    @contextmanager
    def merged(self, strength: float = 1.0) -> Iterator[None]:
        """Inside, it acts at a strength through the frozen weights, rounded to their dtype: as fast as the base model.

        For drawing only; afterwards the weights are what they were. Where they cannot hold it (8 bits, offloaded), it
        is `scaled`.
        """
        layers = list(self._wrapped.values())
        with self.scaled(strength):
            if strength == 0 or not self.enabled or not merging.mergeable(layers):
                yield
                return
            self._merged = True
            self._switch()
            try:
                with self._in_weights(layers):
                    yield
            finally:
                self._merged = False
                self._switch()

    def _in_weights(self, layers: Sequence[Any]) -> AbstractContextManager[None]:
        """Inside, the frozen weights hold the update."""
        return merging.merged(layers, NAME)

    def _refuse_merged(self) -> None:
        if self._merged:
            raise StudioError("an adapter that is merged for drawing cannot be switched: leave `merged()` first")

    @contextmanager
    def folded(self, strength: float) -> Iterator[None]:
        """Inside, it acts at a strength, and a file saved of it does so everywhere: its alphas hold it."""
        layers = self.layers
        self.layers = {
            part: {name: (rank, alpha * strength) for name, (rank, alpha) in inner.items()}
            for part, inner in layers.items()
        }
        try:
            with self.scaled(strength):
                yield
        finally:
            self.layers = layers

    def scales(self) -> dict[str, float]:
        """The factor on B A of each layer at full strength, by `part.module`."""
        root = 0.5 if self.config.rslora else 1.0
        return {
            f"{part}.{name}": alpha / rank**root
            for part in self.layers
            for name, (rank, alpha) in self.layers[part].items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The learned tensors, by parameter name."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts learned tensors back; ModelError unless names and shapes are exactly these."""
        odd = sorted(set(state) ^ set(self._parameters))
        odd += [name for name, p in self._parameters.items() if name in state and state[name].shape != p.shape]
        if odd:
            raise ModelError(f"the saved adapter is not this one: {len(odd)} tensors differ, the first is {odd[0]}")
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state[name])

    def remove(self) -> None:
        """Takes the layers out again: the model is the base model, as if it had never carried an adapter."""
        for tuner in self._tuners.values():
            tuner.unload()
            vars(tuner.model).pop("peft_config", None)
        self._wrapped, self._dropouts = {}, []
        self.model.adapter = None


def _refuse_second(model: Backbone) -> None:
    if model.adapter is not None:
        raise UsageError("the model already carries an adapter: call adapter.remove() before building another")


def _inject(root: nn.Module, names: Mapping[str, tuple[int, float]], config: Config) -> Any:
    """peft's tuner around `root`, with exactly the named layers wrapped."""
    from peft import LoraConfig, LoraModel

    rank, alpha = next(iter(names.values()))
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # a float, though peft says int: it only computes with it
        rank_pattern={f"^{re.escape(n)}": r for n, (r, _) in names.items() if r != rank},
        alpha_pattern={f"^{re.escape(n)}": a for n, (_, a) in names.items() if a != alpha},
        target_modules="|".join(map(re.escape, names)),
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights="gaussian" if config.init == "gaussian" else True,
    )
    return LoraModel(root, settings, NAME)
