"""Lessons of AlignProp on tiny models, and rewards for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio import loop
from studio.loop import Tick
from studio.pipelines.adapters import lora
from studio.pipelines.data_prompts import PromptStream
from studio.pipelines.draws import ALONE, Share
from studio.pipelines.protocols import Adapter, Backbone
from studio.trainers import alignprop
from studio.trainers.base import Loss
from tests.models import backbone

PROMPTS = ["a cat", "a red dog", "a dog in snow"]
WORDS: dict[str, Any] = {
    "steps": 4,
    "batch": 2,
    "precision": "no",
    "lr": 1e-2,
    "prompts": {"texts": PROMPTS},
    "reward": {"terms": ["tests.alignprop:warmth"]},
    "guard": {"every": 0},
    "sampler_steps": 4,
}
SEEN: list[Tensor] = []  # pictures that `shown` was given


def warmth(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """How much redder than blue: linear."""
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))


def shown(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """`warmth`, and the pictures are kept."""
    SEEN.append(images.detach().clone())
    return warmth(images, prompts, references)


def only_dogs(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """`warmth` of dogs; of others 0 / 0, whose gradient is NaN too."""
    good = torch.tensor(["dog" in prompt for prompt in prompts])
    return warmth(images, prompts, references) / good.float() * good.float()


def dogs_else_nothing(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """`warmth` of dogs, 0 of others."""
    return warmth(images, prompts, references) * torch.tensor([float("dog" in prompt) for prompt in prompts])


for reward in (warmth, shown, only_dogs, dogs_else_nothing):
    reward.differentiable = True  # type: ignore[attr-defined]


@dataclass
class Lesson:
    """A training in the making."""

    model: Backbone
    adapter: Adapter
    stream: PromptStream
    config: alignprop.Config
    memory: dict[str, Any]
    losses: Iterator[Loss]

    def ticks(self, **where: Any) -> Iterator[Tick]:
        return loop.train(self.config, self.model, self.adapter, self.losses, self.memory, data=self.stream, **where)

    def loss(self) -> Loss:
        """The first one, drawn with the same random numbers every time."""
        torch.manual_seed(5)
        return next(islice(self.losses, 1))

    def gradients(self) -> list[Tensor]:
        """Of the first loss, in every weight that learns."""
        loss = self.loss()
        return list(torch.autograd.grad(loss.value, self.adapter.parameters()))


def lesson(
    name: str = "toy",
    made: Path = Path(),
    kind: Any = None,
    learnt: float = 0.0,
    share: Share = ALONE,
    memory: dict[str, Any] | None = None,
    **settings: Any,
) -> Lesson:
    """On the model `name`. kind: settings of the adapter; learnt: how far its weights are from their start."""
    model = backbone(name, made)
    config = alignprop.Config(**{**WORDS, **settings})
    dataset = config.data.read(model)
    torch.manual_seed(0)
    adapter = (kind or lora.Config(rank=2)).build(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(learnt * torch.randn(parameter.shape))
    stream = PromptStream(model, config.prompts.read(dataset, False), dataset, batch=config.batch, seed=0, share=share)
    kept = {} if memory is None else memory
    return Lesson(model, adapter, stream, config, kept, alignprop.losses(config, model, adapter, stream, kept))
