"""Which layers of a network an adapter goes into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torch import nn

from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

ATTENTION = r"(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
GROUPS = {
    "attention": rf"(.*\.)?{ATTENTION}",
    "ff": r"(.*\.)?(ff|ff_context)\.net\.(0\.proj|2)",
    # not conv_in and conv_out: their four latent channels bound any rank
    "conv": r".*\.(conv|conv1|conv2|conv_shortcut)",
    "all": r"(?!conv_in$|conv_out$).*",
}
TEXT = "q_proj,k_proj,v_proj,out_proj"


def part(model: Backbone) -> str:
    """The name stock pipelines give the network: unet or transformer."""
    return getattr(model, "net_name", "net")


def roots(model: Backbone) -> dict[str, nn.Module]:
    """Everything an adapter can go into, by its stock pipeline name."""
    return {part(model): model.net, **model.text_encoders}


def teachable(model: Backbone) -> dict[str, nn.Module]:
    """The text encoders LoRA files have a place for (CLIP); UsageError when the model has none."""
    found = {
        name: encoder
        for name, encoder in model.text_encoders.items()
        if any(child.endswith("q_proj") for child, _ in encoder.named_modules())
    }
    if not found:
        raise UsageError("adapter.text_encoder: this model has no CLIP text encoder to teach; leave it off")
    return found


def find(root: nn.Module, pattern: str) -> list[str]:
    """Names of the linear and convolution layers `pattern` means, in network order.

    pattern: groups joined by + (attention, ff, conv, all), suffixes joined by commas, or a regular expression
    that matches a whole name. Raises UsageError when no layer is meant.
    """
    names = [name for name, module in root.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    found = [name for name in names if any(one(name) for one in map(_matcher, _expressions(pattern)))]
    if not found:
        raise UsageError(f"adapter.targets: no layer is called {pattern!r}; {_what_exists(names, pattern)}")
    return found


def _expressions(pattern: str) -> list[str]:
    """The regular expressions a `targets` setting stands for."""
    words = [word.strip() for word in pattern.split("+")]
    if all(word in GROUPS for word in words):
        return [GROUPS[word] for word in words]
    if re.fullmatch(r"[\w.,\s-]+", pattern):
        return [rf"(.*\.)?{re.escape(word.strip())}" for word in pattern.split(",") if word.strip()]
    return [pattern]


def _matcher(expression: str):  # type: ignore[no-untyped-def]
    """`fullmatch` of an expression; UsageError when it is not one."""
    try:
        return re.compile(expression).fullmatch
    except re.error as error:
        raise UsageError(f"adapter.targets: {expression!r} is not a regular expression: {error}") from None


def _what_exists(names: list[str], pattern: str) -> str:
    """A hint: the nearest group, and the endings the layers have."""
    endings = sorted({".".join(p for p in name.split(".")[-2:] if not p.isdigit()) for name in names})
    near = get_close_matches(pattern, [*GROUPS, *endings], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(endings[:12]) + (", ..." if endings[12:] else "")
    return f"{hint}groups: {', '.join(GROUPS)}; endings: {shown}"


def check_ranks(root: nn.Module, part_name: str, names: Mapping[str, tuple[int, float]]) -> None:
    """UsageError for the first layer whose rank exceeds min(inputs, outputs)."""
    for name, (rank, _) in names.items():
        inputs, outputs = size(root.get_submodule(name))
        if rank > min(inputs, outputs):
            raise UsageError(
                f"adapter.rank: {rank} is larger than layer {part_name}.{name} ({inputs} -> {outputs}); "
                f"use at most {min(inputs, outputs)} or leave the layer out of adapter.targets"
            )


def size(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a layer seen as a matrix."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    return weight[0].numel(), weight.shape[0]
