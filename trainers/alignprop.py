"""AlignProp: a differentiable reward's gradient goes back through the sampler that drew the picture.

Prabhudesai et al. 2023, arXiv 2310.03739 (now VADER, 2407.08737). L = -coeff mean r, or coeff mean max(margin - r, 0),
+ beta |e - e_ref|^2 + pull |w - w_0|^2; the last K sampler steps learn, K drawn for each chain. Its family, by
truncation.mode: DRaFT full; DRaFT-K last_k, and with copies = 2 DRaFT-LV; ReFL refl with a margin, ImageReFL also with
base_prefix; LongAlign and DRTune subset with detach_input. K never changes within a chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from studio.pipelines import chain_draw, reward_doubts, reward_loss, rewards_blame, sampling
from studio.pipelines.chain import Chain, doubt, draws_randomly, guided
from studio.pipelines.jitter import Jitter
from studio.pipelines.protocols import Adapter, Backbone, Batch, Stream
from studio.pipelines.truncation import Truncation, draw, one_of
from studio.trainers import rewarded
from studio.trainers.base import Loss, Turn
from studio.trainers.dreambooth import embed

BEGUN, TOLD = "begun", "told"  # in memory: the weights that `pull` pulls to; whether a doubt was said


class Config(rewarded.Settings):
    """AlignProp's own settings; the published learning rate is 1e-3, for 128 pictures an update."""

    steps: Annotated[int, Field(ge=1, le=10**9, description="Optimizer steps")] = 200
    batch: Annotated[int, Field(ge=1, le=4096, description="Pictures per loss")] = 4
    lr: Annotated[float, Field(gt=0, le=10, description="Learning rate")] = 3e-4
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay of the optimizer")] = 1e-4
    truncation: Annotated[Truncation, Field(description="Which sampler steps learn")] = Truncation()
    coeff: Annotated[float, Field(gt=0, description="Weight of the reward, before the gradient is clipped")] = 1.0
    margin: Annotated[
        float | None, Field(description="Rewards above it teach nothing more (ReFL: 2, of ImageReward); empty: all do")
    ] = None
    beta: Annotated[
        float, Field(ge=0, description="Weight of the squared distance from the starting model's predictions; 0: off")
    ] = 0.0
    pull: Annotated[
        float, Field(ge=0, description="Weight of the weights' squared distance from their start; 0: off")
    ] = 0.0
    jitter: Annotated[Jitter, Field(description="Small changes of pictures before they are rewarded")] = Jitter()
    decode: Annotated[int, Field(ge=0, description="Pictures that the autoencoder decodes at once; 0: all")] = 0
    checkpointed: Annotated[
        bool, Field(description="Steps that learn are computed again in the backward pass: less memory, more time")
    ] = True

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if wrong := self.truncation.misfit(self.sampler_steps) or reward_doubts.misfit(self.margin, self.reward):
            raise ValueError(wrong)
        return self


def losses(config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """One loss per batch of prompts; UsageError for a reward without a gradient, or eta for a sampler without."""
    warning = doubt(model, config.sampler, config.guidance_scale, config.eta)
    return lessons(config, rewarded.bring(config, model, adapter, data, memory, differentiable=True), warning)


def lessons(config: Config, studio: rewarded.Studio, warning: str) -> Iterator[Loss]:
    """The losses, after the guard's first look."""
    studio.begin()
    if warning and TOLD not in studio.memory:
        studio.memory[TOLD] = True
        studio.doubts.append(warning)
    if config.pull and BEGUN not in studio.memory:
        named = studio.adapter.named_parameters()
        studio.memory[BEGUN] = {name: parameter.detach().clone() for name, parameter in named.items()}
    for batch in studio.data:
        yield lesson(config, studio, batch)  # a function's: no graph stays here while the next ones are drawn


def lesson(config: Config, studio: rewarded.Studio, batch: Batch) -> Loss:
    """Draws a picture of each prompt, and scores it."""
    model, wish, shape, common = studio.model, config.truncation, batch.latents.shape, studio.data.common
    cond, empty = (embed(model, studio.adapter, prompts) for prompts in (batch.prompts, [""]))
    schedule = sampling.schedule(model, config.sampler, config.sampler_steps, eta=config.eta, shape=shape)
    learns = draw(wish, len(schedule[1]), common("truncation"))
    begun = None
    if config.beta or wish.base_prefix:
        reference = partial(rewarded.reference, studio.adapter, studio.memory)
        begun = chain_draw.frozen(model, config.guidance_scale, batch.prompts, reference)
    route = Chain(
        schedule, guided(model, config.guidance_scale, empty), learns, wish.detach_input, config.checkpointed,
        draws_randomly(model.net), begun if wish.base_prefix else None,
    )  # fmt: skip
    compared = (begun, one_of(learns, common("drift"))) if begun and config.beta else None
    drawn = chain_draw.draw(route, wish, batch, cond, model.prediction, compared)
    parts = drawn.latents.split(config.decode or len(drawn.latents))
    pictures = torch.cat([rewarded.pictures(model, part, checkpointed=True) for part in parts])
    scored = studio.score(config.jitter(pictures, batch.generator), batch.prompts * wish.copies)
    rewards_blame.shielded(pictures, scored.good)
    clipped = ((pictures <= 0) | (pictures >= 1)).float().mean()
    numbers: dict[str, float | Tensor] = {"k": float(sum(learns)), "clipped": clipped, **reward_loss.numbers(scored)}
    numbers |= reward_loss.above(scored, config.margin)
    value = reward_loss.objective(scored, pictures, config.coeff, config.margin)
    if drawn.drift is not None:
        numbers["drift"], value = drawn.drift.detach(), value + config.beta * drawn.drift
    if config.pull:
        moved = reward_loss.moved(studio.adapter.named_parameters(), studio.memory[BEGUN])
        numbers["moved"], value = moved.detach(), value + config.pull * moved

    def then(numbers: Mapping[str, float]) -> Turn:
        """The guard's turn, with the queries so far."""
        studio.doubts += reward_doubts.saturated(numbers, config.margin, studio.memory)
        turn = studio.turn(numbers)
        known = {"queries": float(studio.memory[rewarded.QUERIES]), **reward_loss.settled(numbers)}
        return replace(turn, numbers={**known, **turn.numbers})

    return Loss(value, numbers, idle=float(not scored.good.any()), then=then)
