"""Runs by policy gradient in the making, on small models with rewards that need no encoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio import loop, registry
from studio.loop import Tick
from studio.pipelines.adapters import together
from studio.pipelines.data_prompts import PromptStream
from studio.pipelines.protocols import Backbone
from studio.trainers import policy, rewarded
from tests.models import backbone

PROMPTS = ("a cat", "a red dog", "a dog", "a bird")
FAST: dict[str, Any] = {
    "batch": 4,
    "rollout": 8,
    "sampler_steps": 4,
    "steps": 4,
    "lr": 1e-3,
    "adapter": {"rank": 4},
    "guard": {"every": 0},
    "precision": "no",
}


def redness(pictures: Tensor, prompts: Sequence[str], references: object = None) -> Tensor:
    """How red pictures are: a reward with a gradient."""
    return pictures[:, 0].mean((1, 2)) - pictures[:, 1].mean((1, 2))


redness.differentiable = True  # type: ignore[attr-defined]


def greyness(pictures: Tensor, prompts: Sequence[str], references: object = None) -> Tensor:
    """The same for every picture."""
    return torch.full((len(pictures),), 0.5)


def patchy(pictures: Tensor, prompts: Sequence[str], references: object = None) -> Tensor:
    """No reward for birds, and for the others as red as they are."""
    birds = torch.tensor(["bird" in prompt for prompt in prompts])
    return torch.where(birds, torch.nan, redness(pictures, prompts))


@dataclass
class Run:
    """One training in the making."""

    model: Backbone
    adapter: Any
    data: PromptStream
    config: Any
    memory: dict[str, Any]
    losses: Iterator[Any]

    def ticks(self, **where: Any) -> Iterator[Tick]:
        return loop.train(self.config, self.model, self.adapter, self.losses, self.memory, data=self.data, **where)

    def lessons(self) -> policy.Lessons:
        """What makes the losses, before it has begun."""
        module = registry.trainer("ddpo" if type(self.config).__module__.endswith("ddpo") else "rlcm")
        bring = rewarded.bring(self.config, self.model, self.adapter, self.data, self.memory, self.config.pathwise > 0)
        return policy.Lessons(self.config, bring, partial(module.planned, self.config, self.model))


def brightness(pictures: Tensor, prompts: Sequence[str], references: object = None) -> Tensor:
    """A thousand times how bright pictures are: another range."""
    return 1000 * pictures.mean((1, 2, 3))


def run(trainer: str, reward: str = "redness", name: str = "toy", folder: Path | None = None, **settings: Any) -> Run:
    """The trainer on a small model, everything seeded. reward: functions of this module, joined by +, or a term."""
    module = registry.trainer(trainer)
    model = backbone(name, folder or Path())
    named = [one if ":" in one else f"tests.policies:{one}" for one in reward.split("+")]
    terms = {"reward": {"terms": named}, "prompts": {"texts": PROMPTS}}
    config = module.Config(**{**FAST, **terms, **settings})
    dataset = config.data.read(model)
    data = PromptStream(model, config.prompts.read(dataset, False), dataset, batch=config.batch, seed=0)
    torch.manual_seed(0)
    adapter = together.build(config.adapter, config.tokens, model, dataset)
    memory: dict[str, Any] = {}
    return Run(model, adapter, data, config, memory, module.losses(config, model, adapter, data, memory))


def disturb(adapter: Any, size: float = 0.05) -> None:
    """Move everything that learns a little."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def gradients(adapter: Any, value: Tensor) -> list[Tensor]:
    """The gradient of a loss, parameter by parameter; zeros where there is none."""
    found = torch.autograd.grad(value, adapter.parameters(), allow_unused=True)
    pairs = zip(found, adapter.parameters(), strict=True)
    return [torch.zeros_like(parameter) if gradient is None else gradient for gradient, parameter in pairs]


def first(losses: Iterator[Any], count: int) -> list[Any]:
    """The first losses."""
    return list(itertools.islice(losses, count))
