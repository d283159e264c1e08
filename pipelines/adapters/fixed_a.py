"""LoRA of which only B learns: half the parameters, and adapters of one A are added by adding their B's.

Zhu et al. 2024, arXiv 2402.16842.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from studio.pipelines.adapters.lora import NAME, Config, Layers, LoRA

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone


class FixedLinear(nn.Linear):
    """A linear layer that no gradient is computed for."""

    def forward(self, x: Tensor) -> Tensor:
        # one matrix, as torch makes of it where the weight learns: the same file then rounds alike in a plain LoRA
        return functional.linear(x.flatten(0, -2), self.weight.detach(), self.bias).unflatten(0, x.shape[:-1])


class FixedConv(nn.Conv2d):
    """A convolution that no gradient is computed for."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.detach(), self.bias)


class FixedA(LoRA):
    """A is what the seed made it, and is in files and checkpoints beside B."""

    def __init__(self, model: Backbone, layers: Layers, config: Config) -> None:
        super().__init__(model, layers, config)
        for layer in self._wrapped.values():
            down = layer.lora_A[NAME]
            # not requires_grad = False: what moves, casts or offloads frozen weights must leave an adapter's alone
            down.__class__ = FixedConv if isinstance(down, nn.Conv2d) else FixedLinear

    def parameters(self) -> list[nn.Parameter]:
        """The B's (and DoRA's magnitudes)."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The same, as `part.module.lora_B.weight`."""
        return {name: parameter for name, parameter in self._parameters.items() if ".lora_A." not in name}

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups, without what stays."""
        learns = {id(parameter) for parameter in self.parameters()}
        return [group | {"params": [p for p in group["params"] if id(p) in learns]} for group in super().groups(lr)]
