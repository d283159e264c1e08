"""DDPO: teach a model what a judge likes, by policy gradient over its noisy sampler; on flow models, Flow-GRPO.

Black et al. 2023, arXiv 2305.13301: DDIM with eta = 1, where every step is an action; the loss is that of `rlcm`. With
beta above 0 it has DPOK's KL (arXiv 2305.16381), with kl_reward Carve3D's. On flow models the sampler is the SDE with
the flow's marginals (arXiv 2505.05470), or DanceGRPO's (`sampler = "dance"`, arXiv 2505.07818): give it a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator

from studio.pipelines import sampling
from studio.pipelines.adapters import lora
from studio.pipelines.errors import UsageError
from studio.pipelines.policy_plan import Plan
from studio.pipelines.protocols import Adapter, Backbone, Stream
from studio.trainers import policy, rewarded
from studio.trainers.base import Loss

NOISY = {True: ("sde", "dance"), False: ("ddim",)}  # samplers with actions, by whether the model is a flow model
ELSEWHERE = {  # where other samplers belong
    ("lcm", "tcd"): "; for lcm and tcd there is the trainer rlcm",
    ("sde", "dance"): "; sde and dance are for flow models",
    ("ddim",): "; ddim is for models that are no flow models",
}


class Config(policy.Settings):
    """DDPO's own settings; where they differ from other trainers' they are the published ones."""

    lr: Annotated[float, Field(gt=0, le=10, description="Learning rate")] = 3e-4
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay of the optimizer")] = 1e-4
    adapter: Annotated[lora.Config, Field(description="Which weights learn")] = lora.Config(rank=4)
    adv_clip: Annotated[float, Field(gt=0, description="Advantages are cut off at this many deviations")] = 5.0
    sampler: Annotated[str, Field(description="auto: ddim, or sde on flow models; dance: DanceGRPO's noise")] = "auto"
    sampler_steps: Annotated[int, Field(ge=1, le=1000, description="Sampler steps of each drawn picture")] = 50
    eta: Annotated[float, Field(ge=0, le=1, description="Noise of DDIM's steps, above 0; 1 as DDPM")] = 1.0
    level: Annotated[
        float | None, Field(gt=0, description="Noise of sde and dance; none: the published 0.7 and 0.3")
    ] = None

    @field_validator("eta")
    @classmethod
    def _noisy(cls, eta: float) -> float:
        if eta == 0:
            raise ValueError(
                "steps without noise have no density and no action to learn; use 1 (DDPM's noise), or the trainer "
                "alignprop for a reward with a gradient"
            )
        return eta

    @field_validator("sampler_steps")
    @classmethod
    def _several(cls, steps: int) -> int:
        if steps == 1:
            raise ValueError(
                "one step has no action to learn; use 2 or more, or the trainer alignprop, which needs none"
            )
        return steps


def losses(config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """One loss per few (picture, step) pairs, roll-outs in between. UsageError: a sampler without actions."""
    planned(config, model)
    return lessons(config, model, adapter, data, memory)


def lessons(config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """The losses."""
    studio = rewarded.bring(config, model, adapter, data, memory, config.pathwise > 0)
    yield from policy.Lessons(config, studio, partial(planned, config, model))


def planned(config: Config, model: Backbone, shape: torch.Size | None = None) -> Plan:
    """The sampler as a policy. Raises UsageError."""
    known = NOISY[model.prediction == "flow"]
    name = known[0] if config.sampler == "auto" else config.sampler
    if name not in known:
        advice = next((said for names, said in ELSEWHERE.items() if name in names), "")
        raise UsageError(f"sampler '{name}': this model's samplers with actions are auto, {', '.join(known)}{advice}")
    schedule = sampling.schedule(model, name, config.sampler_steps, eta=config.eta, shape=shape, level=config.level)
    return Plan.of(schedule, path=config.pathwise > 0)
