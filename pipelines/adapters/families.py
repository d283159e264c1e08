"""Adapter families behind one `adapter` setting: which combinations exist, and the adapter that a config means.

loha: dW = s (A1 B1) o (A2 B2), rank at most rank^2. lokr: dW = s W1 (x) W2, a Kronecker product; W2 is low-rank unless
`rank` reaches half its side. oft: W = W0 R, R orthogonal in blocks of `rank` inputs. ia3: the outputs, each times a
number; it has no rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from studio.pipelines.adapters import eva, lora, targets
from studio.pipelines.adapters.families_layers import FORMS, Family
from studio.pipelines.adapters.fixed_a import FixedA
from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

__all__ = ["FORMS", "Family", "build", "check"]


class EvaFixedA(eva.Eva, FixedA):
    """LoRA whose A is the main directions of the inputs and stays so."""


def build(config: lora.Config, model: Backbone) -> lora.LoRA:
    """The adapter of a config that is not plain LoRA; UsageError where it cannot be."""
    layers = config.layers(model)
    if config.family != "lora":
        refuse(config)
        check(config, layers, model)
        return Family(model, layers, config)
    for part, names in layers.items():
        targets.check_ranks(targets.roots(model)[part], part, names)
    if config.init != "eva":
        return FixedA(model, layers, config)
    return (EvaFixedA if config.freeze_a else eva.Eva)(model, layers, config)


def refuse(config: lora.Config) -> None:
    """UsageError for the first setting that means nothing to the config's family."""
    strange = {
        "dropout": config.dropout != 0,
        "rslora": config.rslora,
        "dora": config.dora,
        "init": config.init != "gaussian",
        "freeze_a": config.freeze_a,
        "alpha": config.alpha is not None and config.family in ("oft", "ia3"),
        "factor": config.factor != -1 and config.family != "lokr",
    }
    for name, wrong in strange.items():
        if wrong:
            raise UsageError(f"adapter.{name}: means nothing to adapter.family = '{config.family}'; leave it out")


def check(config: lora.Config, layers: lora.Layers, model: Backbone) -> None:
    """UsageError for the first layer that the family cannot go into."""
    for part, names in layers.items():
        root = targets.roots(model)[part]
        if config.family == "loha":
            targets.check_ranks(root, part, names)
        if config.family == "lokr" and config.factor == 0:
            raise UsageError("adapter.factor: 0 factors nothing; -1 is as square as can be")
        if config.family == "oft":
            for name in names:
                _check_rotation(root.get_submodule(name), f"{part}.{name}", config.rank)


def _check_rotation(layer: nn.Module, name: str, block: int) -> None:
    if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
        # measured: such a layer's unmerged output is not the base model's even before training
        raise UsageError(
            f"adapter.family: peft's OFT is wrong for convolutions larger than 1x1 ({name}): use lokr, or layers that "
            "are none, adapter.targets = attention"
        )
    inputs, _ = targets.size(layer)
    if block < 2 or inputs % block:
        fits = ", ".join(str(number) for number in range(2, min(inputs, 64) + 1) if inputs % number == 0)
        raise UsageError(f"adapter.rank: blocks of {block} do not divide the {inputs} inputs of {name}; {fits} do")
