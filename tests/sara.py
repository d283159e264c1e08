"""SaRA on small networks: attached, moved, trained by hand."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from studio.pipelines.adapters.sara import Config, SaRA
from studio.pipelines.protocols import Backbone


class Small:
    """Just enough of a backbone around a net with one matrix whose rank can be lowered."""

    net_name = "unet"
    adapter: Any = None

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        layers = OrderedDict(wide=nn.Linear(66, 70), norm=nn.LayerNorm(70), act=nn.SiLU(), out=nn.Linear(70, 3))
        self.net = nn.Sequential(layers).to(dtype).requires_grad_(False)
        self.text_encoders: dict[str, nn.Module] = {}
        self.dtype = dtype

    def fingerprint(self) -> str:
        return ""


def attach(model: Any, **settings: Any) -> SaRA:
    return Config(**settings).build(model)


def output(model: Backbone) -> Tensor:
    x = torch.randn(2, *model.latent_shape(model.pixels, model.pixels), generator=torch.Generator().manual_seed(1))
    return model.predict(x, torch.tensor([100, 900]), model.embed(["a cat", "a red dog"]))


def weights(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.net.named_parameters()}


def chosen(adapter: SaRA, name: str) -> Tensor:
    """The mask of a parameter."""
    weight = adapter.model.net.get_parameter(name)
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    if place := adapter.places.get(f"unet.{name}"):
        mask[place.index.long()] = True
    return mask.view(weight.shape)


def moved(adapter: SaRA, seed: int = 0) -> SaRA:
    """With every entry changed."""
    generator = torch.Generator().manual_seed(seed)
    for vector in adapter.parameters():
        vector.data += 1e-2 * torch.randn(vector.shape, generator=generator, dtype=vector.dtype)
    adapter.write()
    return adapter


def train(model: Any, adapter: SaRA, optimizer: torch.optim.Optimizer, steps: int, **how: Any) -> None:
    """Steps on a regression, with the trainer's two duties after each."""
    for step in range(1, steps + 1):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 66, generator=generator, dtype=model.dtype)
        loss = (model.net(x) - x[:, :3]).square().mean()
        if how.get("weight"):
            norm = adapter.nuclear(step)
            assert norm is not None
            loss = loss + how["weight"] * norm
        for part in range(how.get("accumulate", 1)):
            (loss / how.get("accumulate", 1)).backward(retain_graph=part == 0)
        optimizer.step()
        optimizer.zero_grad()
        adapter.settle()
        if step == how.get("progressive"):
            adapter.reselect()
    adapter.write()
