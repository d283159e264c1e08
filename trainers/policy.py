"""What the trainers by policy gradient share: roll-outs between losses, and one loss per handful of sampler steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from typing_extensions import Self

from studio.pipelines import policy_rollout, policy_settings, policy_value, reward_loss, sampling
from studio.pipelines.policy_plan import Plan
from studio.pipelines.policy_rollout import Drawn
from studio.pipelines.policy_value import Rollout
from studio.trainers import policy_rows, rewarded
from studio.trainers.base import Loss, Turn
from studio.trainers.policy_rows import Rows
from studio.trainers.rewarded import QUERIES, UPDATES, Studio

MEMORY, TOLD = "policy", "told"  # in the trainer's memory


class Settings(policy_settings.Policy, rewarded.Settings):
    """Settings of the trainers by policy gradient. Raises ValueError for numbers that do not fit each other."""

    batch: Annotated[int, Field(ge=1, le=4096, description="Pictures drawn at once, and their steps per loss")] = 4
    accumulate: Annotated[
        int, Field(ge=0, le=65536, description="Losses per optimizer step; 0: as many as a roll-out needs")
    ] = 0

    def undecided(self) -> Self:
        """The number of losses follows from the roll-out, where nobody has asked for more."""
        least = policy_settings.accumulate(self, self.actions, self.batch, 0)
        return self.model_copy(update={"accumulate": 0}) if self.accumulate == least else self

    @property
    def actions(self) -> int:
        """The most actions that a picture may have."""
        return self.sampler_steps

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        found = policy_settings.accumulate(self, self.actions, self.batch, self.accumulate)
        object.__setattr__(self, "accumulate", found)  # frozen for everybody else
        policy_settings.whole(self, self.steps, self.guard.every)
        return self


@dataclass
class Lessons:
    """A run at work. plan: for latents of a shape; doubts: what a person should know before it begins."""

    config: Any
    studio: Studio
    plan: Callable[[torch.Size], Plan]
    doubts: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Loss]:
        """Losses without end; each roll-out is learnt from in `epochs` times `updates` optimizer steps."""
        self.studio.begin()
        while True:
            rollout, generator = self.roll_out(), self.studio.data.common("policy")
            steps = [step for _ in range(self.config.epochs) for step in self.dealt(rollout, generator)]
            # a roll-out without differences teaches nothing, and momentum must not go on without it
            idle = float(rollout.worthless and not (self.config.beta or self.config.pathwise))
            for left, step in zip(reversed(range(len(steps))), steps, strict=True):
                then = partial(self.then, left > 0)
                for made in step:
                    self.studio.adapter.train(False)  # dropout would be noise in the ratio
                    value, numbers = made()
                    yield Loss(value, {**rollout.numbers, **numbers}, safe=not left, idle=idle, then=then)

    def roll_out(self) -> Rollout:
        """Draws, scores and values pictures, without a graph and without dropout."""
        config, studio, model, data = self.config, self.studio, self.studio.model, self.studio.data
        studio.adapter.train(False)
        studio.unit = "roll-out"
        prompts, drawn = config.rollout // config.group, []
        most = min(prompts, config.batch)
        reference = partial(rewarded.reference, studio.adapter, studio.memory)
        with sampling.evaluating(model), torch.no_grad():
            for batch in islice(iter(data), prompts // most):
                plan = self.plan(batch.latents.shape)
                drawn.append(policy_rollout.draw(config, plan, model, batch, most, config.guidance_scale, reference))
            whole = Drawn.cat(drawn)
            parts = [part.to(model.device) for part in whole.latents.split(config.batch)]
            scored = studio.score(torch.cat([rewarded.pictures(model, part) for part in parts]), whole.prompts)
        memory, terms = studio.memory.setdefault(MEMORY, {}), scored.moving
        studio.doubts += policy_value.forgets(memory, terms)
        found = policy_value.valued(config, plan, whole, scored.value, scored.good, data.prompts, most, memory, terms)
        numbers = reward_loss.numbers(scored, found.numbers)
        return replace(found, numbers={name: float(value) for name, value in numbers.items()})

    def dealt(self, rollout: Rollout, generator: torch.Generator) -> Iterator[list[Callable[[], Rows]]]:
        """The losses of each optimizer step of a round, to be made when it is their turn."""
        config, studio, count = self.config, self.studio, len(rollout.drawn.prompts)
        path = policy_settings.parts(config, config.actions, config.batch)[1]
        pairs, parts = rollout.pairs(config.learnt(len(rollout.plan.acting)), generator), config.accumulate - path
        for policy, paths in policy_value.micros(config, len(pairs), (parts, path), count, generator):
            made = [partial(policy_rows.policy, config, studio, rollout, pairs[m.items], m.scale) for m in policy]
            yield [*made, *(partial(policy_rows.path, config, studio, rollout, m.items, m.scale) for m in paths)]

    def then(self, halfway: bool, numbers: Mapping[str, float]) -> Turn:
        """Count the step, let the guard look where a roll-out ends, and say what is to be said."""
        memory = self.studio.memory
        doubts = () if TOLD in memory else (*self.doubts, *policy_rows.doubts(self.studio))
        memory[TOLD] = True
        if halfway:
            memory[UPDATES] = memory.get(UPDATES, 0) + 1
            turn = Turn()
        else:
            turn = self.studio.turn(numbers)
        queries = {QUERIES: float(memory.get(QUERIES, 0))}
        known = reward_loss.settled(numbers)
        return replace(turn, warnings=(*doubts, *turn.warnings), numbers={**known, **turn.numbers, **queries})
