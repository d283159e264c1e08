"""The adapter families under test, and models with one of them in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.pipelines.adapters import lora
from studio.pipelines.protocols import Backbone, Batch
from tests import models

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"dora": True},
    "freeze_a": {"freeze_a": True},
    "eva": {"init": "eva"},
    "eva+freeze_a": {"init": "eva", "freeze_a": True},
    "loha": {"family": "loha"},
    "lokr": {"family": "lokr"},
    "lokr whole": {"family": "lokr", "factor": 8, "rank": 16},
    "oft": {"family": "oft"},
    "ia3": {"family": "ia3"},
}
OWN = ("loha", "lokr", "lokr whole", "oft", "ia3")
TINY = ("tiny-sd-eps", "tiny-sd3")
LOADED: dict[str, Backbone] = {}


def backbone(name: str, made: Path) -> Backbone:
    """A fresh model, copied from memory."""
    if name not in LOADED:
        LOADED[name] = models.backbone(name, made)
    return copy.deepcopy(LOADED[name])


def output(model: Backbone) -> Tensor:
    shape = (2, *model.latent_shape(model.pixels, model.pixels))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.predict(x, torch.tensor([100, 900]), model.embed(["a cat", "a red dog"]))


def build(model: Backbone, variant: str, **settings: Any) -> Any:
    torch.manual_seed(2)
    return lora.Config(**{"rank": 2, **VARIANTS[variant], **settings}).build(model)


def moved(model: Backbone, variant: str, **settings: Any) -> Any:
    """An adapter with every weight that learns away from its start."""
    adapter = build(model, variant, **settings)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return adapter


def batches(model: Backbone, count: int = 4) -> Iterator[Batch]:
    """Batches of noise with real prompts."""
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn((2, *model.latent_shape(model.pixels, model.pixels)), generator=generator)
        prompts = ["a cat on the left", f"a red dog number {seed}"]
        yield Batch(latents, prompts, torch.zeros(2, dtype=torch.bool), torch.ones(2), None, ["a", "b"], generator)


def close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-4, atol=1e-5)
