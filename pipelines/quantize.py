"""The frozen network's linear layers in 8 bits, by torchao."""

from __future__ import annotations

from torch import nn

from studio.pipelines.errors import UsageError

SMALLEST = 2**12  # weights of a layer below which nothing is gained


def quantize(net: nn.Module, kind: str) -> int:
    """Replaces the weights of frozen linear layers in place, before an adapter is built; how many there were.

    kind: no, or int8 (weights only, per channel). Raises UsageError when the package is missing.
    """
    if kind == "no":
        return 0
    try:
        return int8(net)
    except ImportError as error:
        raise UsageError(f"quantize = '{kind}' needs: pip install torchao ({error})") from None


def large(net: nn.Module) -> dict[str, nn.Linear]:
    """The layers worth it, by name."""
    layers = {name: part for name, part in net.named_modules() if type(part) is nn.Linear}
    return {name: part for name, part in layers.items() if part.weight.numel() >= SMALLEST}


def int8(net: nn.Module) -> int:
    """torchao's weight-only int8."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    wanted = large(net)
    quantize_(net, Int8WeightOnlyConfig(), filter_fn=lambda part, name: name in wanted)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return len(wanted)
