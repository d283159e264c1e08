"""A reward beside distillation: RG-LCD (Li et al. 2024, arXiv 2403.11027), on the clean estimate of a single step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from studio.pipelines import reward_doubts, reward_loss, rewards_blame
from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import Backbone
from studio.pipelines.rewards import Reward

UNIT, ALONE = "batch", "it was distilled without the reward"


@dataclass
class Beside:
    """The reward of a run that distils; None: it has none. memory: the run's."""

    reward: Reward | None
    memory: dict[str, Any]
    said: list[str] = field(default_factory=list)
    mute: Sequence[str] = ()  # terms that lately had no number for any picture

    def of(self, model: Backbone, clean: Tensor, prompts: list[str]) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The mean reward of clean latents `[B, C, h, w]`, through the autoencoder, and what is shown of it.

        `clamped` is the share of values outside of 0..1: they are cut off there and have no gradient. The other numbers
        are to be `reward_loss.settled`. Without a reward 0 and nothing.
        """
        if self.reward is None:
            return clean.new_zeros(()), {}
        pictures = model.decode(clean).float().div(2).add(0.5)
        scored = self.reward(pictures.clamp(0, 1), prompts, memory=self.memory)
        self.said, self.mute = [*self.said, *scored.warnings], reward_doubts.muted(scored) or self.mute
        rewards_blame.shielded(pictures, scored.good)
        seen = pictures.detach()
        clamped = ((seen < 0) | (seen > 1)).float().mean()
        return scored.mean, {"clamped": clamped, **reward_loss.numbers(scored)}

    def told(self, numbers: Mapping[str, float], last: bool) -> tuple[tuple[str, ...], ModelError | None]:
        """What is to be told of an update, the `last` or not, and what a run ends with that no judge scores."""
        if self.reward is None:
            return (), None
        said, self.said = dict.fromkeys(self.said), []
        doubts = (*said, *reward_doubts.unscored(numbers, UNIT, self.memory, ALONE))
        return doubts, reward_doubts.lost(self.mute, UNIT, self.memory, last)
