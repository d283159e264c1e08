"""What of a run by rewards can be known to be wrong before anything is written: terms, samplers, pictures."""

from __future__ import annotations

from collections.abc import Generator

import torch

from studio import ranks, registry
from studio.materials import Materials
from studio.pipelines import reward_guard_usual, rewards
from studio.pipelines.data_prompts import Prompts
from studio.pipelines.errors import ModelError, UsageError
from studio.trainers import rewarded
from studio.trainers.base import Settings


def wishes(settings: Settings) -> None:
    """Before the model is loaded: whether the terms can be rewards. Raises UsageError, DataError and ModelError."""
    wish = getattr(settings, "reward", None)
    if not isinstance(wish, rewards.Rewards):
        return
    alone = isinstance(settings, rewarded.Settings)  # else a reward beside another loss
    weight = getattr(settings, "pathwise" if alone else "beta", 0.0)
    if not (alone or weight):
        idle(wish)
        return
    made = rewards.build(wish, ranks.device(), torch.float32, differentiable=weight > 0)
    if settings.data.folder is None:
        made.compared(None)
    made.expected()
    guard = getattr(settings, "guard", None)
    if guard is not None and guard.every and guard.terms:
        try:
            reward_guard_usual.build(guard.terms, ranks.device()).expected()
        except (UsageError, ModelError) as error:
            raise type(error)(f"guard.terms: {error}") from None


def idle(wish: rewards.Rewards) -> None:
    """UsageError where settings of a reward are given that does not count."""
    if moved := next((name for name in type(wish).model_fields if getattr(wish, name) != getattr(NOTHING, name)), ""):
        raise UsageError(
            f"reward.{moved} does nothing with beta = 0: give --beta, the reward's weight, or leave it out"
        )


def lessons(made: Materials) -> None:
    """With the model, before anything is written: what the trainer itself refuses before its first loss."""
    settings = made.config.settings
    if isinstance(prompts := getattr(settings, "prompts", None), Prompts):
        trainer, stream = registry.trainer(made.config.trainer), made.prompted(prompts)
        losses = trainer.losses(settings, made.model, made.adapter, stream, {})
        if isinstance(losses, Generator):
            losses.close()


NOTHING = rewards.Rewards()
