"""Losses of single sampler steps of a roll-out: the clipped policy gradient, and the path-wise one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from studio.pipelines import policy_loss, policy_rollout, rewards_blame
from studio.pipelines.policy_value import Rollout
from studio.pipelines.protocols import Predict
from studio.trainers import rewarded
from studio.trainers.dreambooth import embed
from studio.trainers.rewarded import Studio

Rows = tuple[Tensor, dict[str, float | Tensor]]  # a loss, and its numbers


def predict(config: Any, studio: Studio) -> Predict:
    """The network as the roll-out called it, guidance inside."""
    return policy_rollout.guided(studio.model, config.guidance_scale, partial(embed, studio.model, studio.adapter))


def reference(studio: Studio) -> AbstractContextManager[None]:
    """Inside, the model is what the run began with."""
    return rewarded.reference(studio.adapter, studio.memory)


def doubts(studio: Studio) -> tuple[str, ...]:
    """What a person should know of the adapter before it begins."""
    dropout = getattr(studio.adapter.config, "dropout", 0)
    said = "adapter.dropout stays off: it would be noise in the ratio of a step's densities before and after learning"
    return (said,) if dropout else ()


def policy(config: Any, studio: Studio, rollout: Rollout, pairs: Tensor, scale: float) -> Rows:
    """`scale` times the sum over (picture, number of the action) pairs of the clipped loss, and of beta KL.

    The KL is the exact one, of each step's Gaussian to that of what the run began with.
    """
    model, plan, drawn = studio.model, rollout.plan, rollout.drawn
    rows, action = pairs.unbind(1)
    k, reduction = plan.acting[action], config.logprob_reduction
    x, after = (drawn.states[rows, k + i].to(model.device) for i in (0, 1))
    prompts, theirs = [drawn.prompts[row] for row in rows.tolist()], None
    if config.beta:  # before the tuned model: its activations are gone when those of the graph are kept
        with reference(studio):
            theirs = plan.again(predict(config, studio), x, k, model.embed(prompts))
    mine = plan.again(predict(config, studio), x, k, embed(model, studio.adapter, prompts))
    log_ratio = mine.log_prob(after, reduction) - drawn.log_probs[rows, action].to(x.device)
    advantages, weights = (column[rows].to(x.device) for column in (rollout.advantages, rollout.weights))
    each = policy_loss.clipped(log_ratio, advantages, config.clip_ratio) * weights
    numbers = policy_loss.health(log_ratio, config.clip_ratio)
    if theirs is not None:
        numbers["policy_kl"] = mine.kl(theirs, reduction)
        each = each + config.beta * numbers["policy_kl"]
    return each.sum() * scale, {name: values.detach().sum() * scale for name, values in numbers.items()}


def path(config: Any, studio: Studio, rollout: Rollout, rows: Tensor, scale: float) -> Rows:
    """`scale` times the sum over pictures of minus their rewards, through the last step of the sampler alone.

    In the units of `policy`: with a weight of 1 the two are the whole gradient of the expected reward. With scale 0
    there was nothing left for this loss, and the judge is not asked.
    """
    model, plan, drawn = studio.model, rollout.plan, rollout.drawn
    x = drawn.states[rows, len(plan.steps) - 1].to(model.device)
    prompts = [drawn.prompts[row] for row in rows.tolist()]
    clean = plan.finish(predict(config, studio), x, embed(model, studio.adapter, prompts))
    if not scale:
        return clean.sum() * 0.0, {}
    pictures = rewarded.pictures(model, clean, checkpointed=True)
    scored = studio.score(pictures, prompts, update=False)
    rewards_blame.shielded(pictures, scored.good)
    unit = config.pathwise / len(plan.acting) / (x[0].numel() if config.logprob_reduction == "mean" else 1)
    gain = (rollout.gain * rollout.weights)[rows].to(x.device)
    each = -unit * torch.where(scored.good, scored.value, 0.0) * gain
    return each.sum() * scale, {}
