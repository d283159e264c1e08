"""What the trainers that learn from rewards share: their settings, and what is scored, watched and compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines import data_references, reward_doubts, reward_guard, reward_guard_kl, rewards, sampling
from studio.pipelines.data_prompts import Prompts, PromptStream
from studio.pipelines.data_references import References
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Adapter, Backbone, Stream
from studio.pipelines.rewarding import START, pictures, reference
from studio.trainers import base
from studio.trainers.base import Choice, Turn

__all__ = ["QUERIES", "UPDATES", "Settings", "Studio", "bring", "pictures", "reference"]

UPDATES, QUERIES = "updates", "queries"  # in the trainer's memory


class Settings(base.Settings):
    """What a run by rewards is made of; there need be no pictures."""

    data: Annotated[References, Field(description="The subject's pictures, for rewards of identity")] = References()
    prompts: Annotated[Prompts, Field(description="What is drawn")] = Prompts()
    reward: Annotated[rewards.Rewards, Field(description="What is rewarded")] = rewards.Rewards()
    guard: Annotated[reward_guard.Guard, Field(description="What ends a run that is no longer getting better")] = (
        reward_guard.Guard()
    )
    choice: Annotated[Choice, Field(description="How the best checkpoint is found; the guard does")] = Choice(
        score="never"
    )
    sampler: Annotated[str, Field(description="auto, ddim, euler, lcm, tcd, pcm, sde or dance: what draws")] = "auto"
    sampler_steps: Annotated[int, Field(ge=1, le=1000, description="Sampler steps of each drawn picture")] = 20
    guidance_scale: Annotated[float, Field(ge=1, le=100, description="Classifier-free guidance scale")] = 5.0
    eta: Annotated[float, Field(ge=0, le=1, description="Noise of DDIM's steps: 0 none, 1 as DDPM")] = 0.0


@dataclass
class Studio:
    """A run's rewards at work. references: the subject's pictures, `[3, h, w]` in 0..1."""

    config: Any
    model: Backbone
    adapter: Adapter
    data: PromptStream
    memory: dict[str, Any]
    reward: rewards.Reward
    references: list[Tensor]
    watch: reward_guard.Watch | None = None
    doubts: list[str] = field(default_factory=list)
    mute: Sequence[str] = ()  # terms that lately had no number for any picture
    unit: str = "batch"  # of pictures that are scored at once

    def begin(self) -> None:
        """The guard's first look, once, before the first step."""
        if self.watch is not None:
            self.watch.begin(self.memory.get(UPDATES, 0))

    def score(self, pictures: Tensor, prompts: Sequence[str], update: bool = True) -> rewards.Scored:
        """The rewards of pictures `[B, 3, H, W]` in 0..1; B queries. update: the running statistics take them in."""
        self.memory[QUERIES] = self.memory.get(QUERIES, 0) + len(pictures) * self.data.share.ranks
        scored = self.reward(pictures, prompts, self.references or None, self.memory, update)
        self.doubts, self.mute = [*self.doubts, *scored.warnings], reward_doubts.muted(scored) or self.mute
        return scored

    def turn(self, numbers: Mapping[str, float]) -> Turn:
        """A `Loss.then`: the update is counted, what no judge scores ends, and the guard looks when it is due."""
        self.memory[UPDATES] = updates = self.memory.get(UPDATES, 0) + 1
        doubts = (*dict.fromkeys(self.doubts), *reward_doubts.unscored(numbers, self.unit, self.memory))
        self.doubts = []
        lost = reward_doubts.lost(self.mute, self.unit, self.memory, updates >= self.config.steps)
        if lost or self.watch is None or not self.watch.due(updates):
            return Turn(warnings=doubts, failed=lost)
        seen = self.watch.see(updates)
        said = (*doubts, *seen.warnings)
        return Turn(seen.messages, said, fresh=bool(seen.stop), numbers=seen.numbers, stop=seen.stop)


def bring(
    config: Any, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any], differentiable: bool = False
) -> Studio:
    """Everything that rewards need. UsageError: a stream of pictures, or an adapter that cannot be compared with."""
    if not isinstance(data, PromptStream):
        raise UsageError("a run by rewards reads prompts, not pictures: give it a PromptStream")
    if config.free_encoders:
        raise UsageError("free_encoders: pictures are decoded at every step of a run by rewards; leave it off")
    reward = rewards.build(config.reward, model.device, model.dtype, differentiable=differentiable)
    made = Studio(config, model, adapter, data, memory, reward, data_references.pictures(data.dataset))
    if config.guard.every:
        made.watch = watch(made)
    return made


def watch(made: Studio) -> reward_guard.Watch:
    """The guard over a run's held-out prompts, drawn as the run draws."""
    config, model = made.config, made.model

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        # without the noise of eta: previews and people draw so
        options = {"steps": config.sampler_steps, "guidance_scale": config.guidance_scale, "sampler": config.sampler}
        return torch.stack(list(sampling.sample(model, prompts, seeds, **options)))

    def distance() -> float:
        began = partial(reference, made.adapter, made.memory)
        return reward_guard_kl.distance(model, made.data.held_out, began, sampler=config.sampler)

    comparable = made.adapter.exact_off or START in made.memory or config.guard.kl
    return reward_guard.Watch(
        config.guard, made.reward, draw, distance if comparable else None, made.memory, made.adapter,
        prompts=made.data.held_out, references=made.references, embedded=made.data.embedded, last=config.steps,
        learnt=made.data.prompts,
    )  # fmt: skip
