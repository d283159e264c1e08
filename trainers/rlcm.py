"""RLCM: teach a few-step model what a judge likes, by policy gradient over its own sampler.

Oertell et al. 2024, arXiv 2404.03673. Each of H sampler steps but the last noises the clean estimate anew: H - 1
actions a ~ N(A s + B out, S^2) of known density. L = mean of max(-adv rho, -adv clip(rho, 1 - eps, 1 + eps)) + beta KL,
over pictures and steps, where rho is the density's ratio to that of the roll-out, adv the reward against the last ones
of its prompt, and KL the exact one to what the run began with. Rewards need no gradient. It needs a model that draws
in few steps: an LCM, or a LoRA that makes one as `start`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import torch
from diffusers import LCMScheduler, TCDScheduler
from pydantic import Field, field_validator

from studio.pipelines import policy_plan, sampling
from studio.pipelines.adapters import lora
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_hearing import hears
from studio.pipelines.policy_plan import Plan
from studio.pipelines.preview_settings import FewStep
from studio.pipelines.protocols import Adapter, Backbone, Stream
from studio.trainers import policy, rewarded
from studio.trainers.base import Loss


class Config(policy.Settings):
    """RLCM's own settings; where they differ from other trainers' they are the published ones."""

    lr: Annotated[float, Field(gt=0, le=10, description="Learning rate")] = 1e-4
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay of the optimizer")] = 0.0
    clip: Annotated[float, Field(ge=0, description="Largest gradient norm; 0: no clipping")] = 5.0
    adapter: Annotated[lora.Config, Field(description="Which weights learn")] = lora.Config(rank=16, alpha=32)
    previews: Annotated[FewStep, Field(description="Pictures made on the way")] = FewStep()
    sampler: Annotated[str, Field(description="lcm or tcd: the few-step sampler that draws")] = "lcm"
    sampler_steps: Annotated[int, Field(ge=1, le=50, description="Sampler steps H, 2 or more: H - 1 actions")] = 8
    guidance_scale: Annotated[
        float,
        Field(ge=1, le=100, description="What a network that hears guidance is told (8 is usual); 1: no guidance"),
    ] = 1.0
    timesteps: Annotated[
        tuple[int, ...], Field(description="The sampler's timesteps, falling; empty: diffusers' choice")
    ] = ()
    include_terminal_noise: Annotated[
        bool, Field(description="Learn from noise after the last step too, as the public code does: variance alone")
    ] = False

    @field_validator("sampler_steps")
    @classmethod
    def _several(cls, steps: int) -> int:
        if steps == 1:
            raise ValueError(
                "the last step draws no noise, so one step alone has no action to learn; use 2 or more, or the trainer "
                "alignprop with sampler = 'lcm', which needs none"
            )
        return steps

    @property
    def actions(self) -> int:
        """The actions of each picture."""
        return self.sampler_steps - 1 + self.include_terminal_noise


def losses(config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """One loss per few (picture, step) pairs, roll-outs in between. UsageError: a sampler without actions."""
    if config.timesteps and len(config.timesteps) != config.sampler_steps:
        raise UsageError(f"timesteps: {len(config.timesteps)} of them for sampler_steps = {config.sampler_steps}")
    planned(config, model)
    return lessons(config, model, adapter, data, memory)


def lessons(config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """The losses."""
    studio = rewarded.bring(config, model, adapter, data, memory, config.pathwise > 0)
    yield from policy.Lessons(config, studio, partial(planned, config, model), doubts(config, model))


def planned(config: Config, model: Backbone, shape: torch.Size | None = None) -> Plan:
    """The sampler as a policy. Raises UsageError."""
    given = config.timesteps or None
    schedule = sampling.schedule(model, config.sampler, config.sampler_steps, shape=shape, timesteps=given)
    extra = policy_plan.terminal(model, schedule[1][-1]) if config.include_terminal_noise else None
    return Plan.of(schedule, extra, config.pathwise > 0)


def doubts(config: Config, model: Backbone) -> tuple[str, ...]:
    """What a person should know before it begins: whether the model draws in few steps cannot be seen for sure."""
    distilled = isinstance(model.scheduler, (LCMScheduler, TCDScheduler))
    if hears(model):
        quiet = "guidance_scale = 1: this network hears the guidance scale, and 1 means none; 8 is usual"
        return (quiet,) if config.guidance_scale == 1 else ()
    if config.start is not None or distilled:
        return ()
    return (
        "nothing says that this model draws in few steps: give it a few-step LoRA as start (lcm:embedded for the "
        "embedded model, or one of the trainer lcm), or use an LCM; from an ordinary model pictures are blurred",
    )
