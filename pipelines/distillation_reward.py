"""A reward beside distillation: RG-LCD (Li et al. 2024, arXiv 2403.11027), on the clean estimate of a single step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from studio.pipelines import reward_loss, rewards_blame
from studio.pipelines.protocols import Backbone
from studio.pipelines.rewards import Reward


@dataclass(frozen=True)
class Wished:
    """A batch's reward: its mean, with a graph; numbers to plot and warnings."""

    value: Tensor
    numbers: Mapping[str, float | Tensor]
    warnings: tuple[str, ...]


def of(model: Backbone, reward: Reward | None, clean: Tensor, prompts: list[str], memory: dict[str, Any]) -> Wished:
    """The reward of clean latents `[B, C, h, w]`, through the autoencoder; 0 where there is none.

    `clamped` is the share of values outside of 0..1: they are cut off there and have no gradient. The other numbers are
    to be `reward_loss.settled`.
    """
    if reward is None:
        return Wished(clean.new_zeros(()), {}, ())
    pictures = model.decode(clean).float().div(2).add(0.5)
    scored = reward(pictures.clamp(0, 1), prompts, memory=memory)
    rewards_blame.shielded(pictures, scored.good)
    seen = pictures.detach()
    clamped = ((seen < 0) | (seen > 1)).float().mean()
    return Wished(scored.mean, {"clamped": clamped, **reward_loss.numbers(scored)}, scored.warnings)
