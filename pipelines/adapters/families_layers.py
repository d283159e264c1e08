"""LoHa, LoKr, OFT and (IA)3 through peft: updates of another form than LoRA's B A, with LoRA's switches.

What peft lacks is made up for: a strength for OFT and (IA)3, on the fly, and merging that is undone to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from studio.pipelines.adapters import lora, merging, targets
from studio.pipelines.adapters.lora import NAME, LoRA
from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone


@dataclass(frozen=True)
class Form:
    """How peft calls a family. tuner: its classes' first part; weights: where a layer keeps its tensors; conv_ok: right
    for convolutions larger than 1x1; scales: peft's own strength is linear; folds: the tensor whose factor is the
    update's, "" where a file cannot hold a strength.
    """

    tuner: str
    weights: tuple[str, ...]
    conv_ok: bool
    scales: bool
    folds: tuple[str, ...]


FORMS = {
    "loha": Form("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), True, True, ("hada_w1_a",)),
    "lokr": Form("LoKr", ("lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b"), True, True, ("lokr_w1",)),
    "oft": Form("OFT", ("oft_R",), False, False, ()),
    "ia3": Form("IA3", ("ia3_l",), True, False, ("ia3_l",)),
}


def settings(config: lora.Config, names: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """peft's settings of the named layers of one part, as JSON can hold them; the same for files and for training."""
    rank, alpha = next(iter(names.values()))
    common = {
        "peft_type": FORMS[config.family].tuner.upper(),
        "target_modules": "|".join(map(re.escape, names)),
    }
    own: dict[str, dict[str, Any]] = {
        "loha": {"r": rank, "alpha": alpha},
        "lokr": {"r": rank, "alpha": alpha, "decompose_factor": config.factor, "init_weights": "lycoris"},
        # the series that is peft's default leaves the rotations when they are large (by 0.12)
        "oft": {"r": 0, "oft_block_size": rank, "use_cayley_neumann": False},
        "ia3": {"feedforward_modules": []},
    }
    return common | own[config.family]


def peft_config(values: Mapping[str, Any]) -> Any:
    """peft's own config object of such settings."""
    import peft

    given = {key: value for key, value in values.items() if key != "peft_type"}
    tuner = next(form.tuner for form in FORMS.values() if form.tuner.upper() == values["peft_type"])
    return getattr(peft, f"{tuner}Config")(**given)


def _inject(root: nn.Module, names: Mapping[str, tuple[int, float]], config: lora.Config) -> Any:
    import peft

    made = peft_config(settings(config, names))
    return getattr(peft, f"{FORMS[config.family].tuner}Model")(root, made, NAME)


class Family(LoRA):
    """Layers of one of FORMS in a network (and its text encoders), with the switches, files and groups of a LoRA.

    layers: part -> module name -> (rank, alpha). Every flag is what tests/pipelines/test_families.py measures.
    """

    kind = "families"
    exact_off = True
    identity_at_init = True
    unmerged_ok = True

    def __init__(self, model: Backbone, layers: lora.Layers, config: lora.Config) -> None:
        lora._refuse_second(model)
        self.model, self.layers, self.config = model, layers, config
        self.form = FORMS[config.family]
        self.conv_ok, self.linear_scale = self.form.conv_ok, True
        roots = targets.roots(model)
        self._tuners = {part: _inject(roots[part], names, config) for part, names in layers.items()}
        self._wrapped = {
            f"{part}.{name}": self._tuners[part].model.get_submodule(name) for part in layers for name in layers[part]
        }
        self._parameters = dict(self._collect())
        self._dropouts, self._offs, self._merged, self._strength = [], 0, False, 1.0
        for layer in self._wrapped.values():
            layer.eval()  # in training mode peft draws a random number in every pass, though nothing is dropped
            if self.form.scales:
                layer.scaling[NAME] = self._factor(layer)
            else:
                layer.register_forward_hook(self._between, with_kwargs=True)
        model.adapter = self

    def _collect(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Adapter parameters by a stable name, without peft's adapter name, cast to float32."""
        for name, layer in self._wrapped.items():
            for kind in self.form.weights:
                holder = getattr(layer, kind)
                if NAME in holder:
                    inner = isinstance(holder[NAME], nn.Module)
                    parameter = holder[NAME].weight if inner else holder[NAME]
                    parameter.data = parameter.data.float()
                    yield f"{name}.{kind}" + (".weight" if inner else ""), parameter

    def _factor(self, layer: Any) -> float:
        """alpha / rank; 1 for a LoKr of two whole factors, whose alpha every reader of its files ignores."""
        whole = self.config.family == "lokr" and NAME in layer.lokr_w2
        return 1.0 if whole else layer.alpha[NAME] / layer.r[NAME]

    def scales(self) -> dict[str, float]:
        """The factor on the update of each layer at full strength, by `part.module`."""
        return {n: self._factor(layer) if self.form.scales else 1.0 for n, layer in self._wrapped.items()}

    def _between(self, layer: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor | None:
        """A layer's output at another strength than 1: both ends are affine in x, so this is W0 + strength dW."""
        if self._strength == 1 or layer._disable_adapters:
            return None
        base = layer.get_base_layer()(*args, **kwargs).to(out.dtype)
        return torch.lerp(base, out, self._strength)

    def _switch(self) -> None:
        for layer in self._wrapped.values():
            layer._disable_adapters = self._offs > 0 or self._merged

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        """Inside, the update counts `strength` times: 0 is the base model exactly, nested ones multiply."""
        if strength == 0:
            with self.off():
                yield
            return
        self._refuse_merged()
        before = self._strength
        self._act_at(before * strength)
        try:
            yield
        finally:
            self._act_at(before)

    def _act_at(self, strength: float) -> None:
        self._strength = strength
        for layer in self._wrapped.values() if self.form.scales else ():
            layer.scaling[NAME] = self._factor(layer) * strength

    @contextmanager
    def _in_weights(self, layers: Sequence[Any]) -> Iterator[None]:
        swaps = [swap for layer in layers for swap in self._swaps(layer)]
        before = [frozen.data for frozen, _ in swaps]
        try:
            for frozen, tensor in swaps:
                frozen.data = tensor
            yield
        finally:
            for (frozen, _), tensor in zip(swaps, before, strict=True):
                frozen.data = tensor

    def _swaps(self, layer: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each frozen parameter that the update touches, with what it is with the update in it."""
        base = layer.get_base_layer()
        for frozen, delta in zip((base.weight, base.bias), self.change(layer), strict=True):
            if delta is not None:
                yield frozen, (frozen.detach().float() + self._strength * delta).to(frozen.dtype)

    @torch.no_grad()
    def change(self, layer: Any) -> tuple[Tensor, Tensor | None]:
        """What the update adds to a layer's weight and to its bias at full strength, float32; None: nothing."""
        if self.form.scales:
            return layer.get_delta_weight(NAME) * (self._factor(layer) / layer.scaling[NAME]), None
        base = layer.get_base_layer()
        weight = base.weight.detach().float()
        if self.config.family == "oft":
            turn = layer.oft_R[NAME].get_weight()
            return (weight.flatten(1) @ turn.T).view_as(weight) - weight, None
        more = layer.ia3_l[NAME].flatten() - 1
        bias = None if base.bias is None else base.bias.detach().float() * more
        return weight * more.view(-1, *[1] * (weight.ndim - 1)), bias

    @property
    def holds_strength(self) -> bool:
        """Whether a file can hold another strength than 1: a part of a rotation is no rotation."""
        return bool(self.form.folds)

    @property
    def changeable(self) -> bool:
        """Whether `change` can be told: a rotation's or a factor's needs the frozen weights as plain numbers."""
        return self.form.scales or merging.mergeable(self._wrapped.values())

    def changes(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        """`change` of every layer, by `part.module`."""
        return {name: self.change(layer) for name, layer in self._wrapped.items()}

    @contextmanager
    def folded(self, strength: float) -> Iterator[None]:
        """Inside, it acts at a strength, and a file saved of it does so everywhere. Raises UsageError for OFT."""
        if strength != 1 and not self.holds_strength:
            raise UsageError(f"adapter.family: a file of {self.config.family} holds whole rotations; use strength 1")
        folds = [p for n, p in self._parameters.items() if n.rpartition(".")[2] in self.form.folds]
        kept = [parameter.detach().clone() for parameter in folds]
        zero = 1.0 if self.config.family == "ia3" else 0.0
        try:
            with torch.no_grad():
                for parameter, tensor in zip(folds, kept, strict=True):
                    parameter.copy_(tensor if strength == 1 else zero + strength * (tensor - zero))
            yield
        finally:
            with torch.no_grad():
                for parameter, tensor in zip(folds, kept, strict=True):
                    parameter.copy_(tensor)
