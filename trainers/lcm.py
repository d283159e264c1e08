"""LCM: teach an adapter to draw in 1 to 8 steps what the model itself draws in 25 or more, guidance included.

Latent consistency distillation (arXiv 2311.05556), phased (PCM, 2405.18407), to any earlier time (TCD, 2402.19159),
at noised pictures or where its own sampler comes by (backward distillation, 2405.05224).
L = d(f(z_t, t), f(z_t', t') without a graph), where z_t' is the frozen model's guided step from z_t, and f the tuned
model's jump to the clean picture, its phase's edge or a random earlier time. With a reward (RG-LCD, 2403.11027)
L - beta R(decode(x0)), x0 being the tuned model's clean estimate at t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines import distillation, distillation_own, distillation_reward, reward_loss, rewards
from studio.pipelines.adapters import lora
from studio.pipelines.data_references import References
from studio.pipelines.distillation import Distance, Grid, JumpTo, Solver
from studio.pipelines.distillation_data import Drawn
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_hearing import hears, told
from studio.pipelines.preview_settings import FewStep
from studio.pipelines.protocols import Adapter, Backbone, Batch, Stream
from studio.trainers.base import Choice, Loss, Settings, Turn
from studio.trainers.dreambooth import embed


class Config(Settings):
    """LCM's own settings."""

    steps: Annotated[int, Field(ge=1, le=10**9, description="Optimizer steps")] = 1000
    adapter: Annotated[lora.Config, Field(description="Which weights learn")] = lora.Config(targets="all", rank=64)
    data: Annotated[References, Field(description="Pictures of any kind; no folder: the model's own")] = References()
    drawn: Annotated[Drawn, Field(description="The model's own pictures, where there is no folder")] = Drawn()
    previews: Annotated[FewStep, Field(description="Pictures made on the way, in few steps")] = FewStep()
    # no judge of subjects can tell which checkpoint draws best in few steps
    choice: Annotated[Choice, Field(description="How the best checkpoint is found")] = Choice(score="never")
    # the published 5 to 15 is for networks that are told w: weights that are not would learn the mean
    w_min: Annotated[float, Field(ge=0, le=100, description="Least teacher guidance scale, less 1")] = 6.5
    w_max: Annotated[distillation.Most, Field(description="Most teacher guidance scale, less 1")] = 6.5
    solver: Annotated[Solver, Field(description="From t to t': the teacher, guided or plain, or the data")] = "guided"
    grid: Annotated[int, Field(ge=1, description="Timesteps that are taught; few-step samplers expect 50")] = 50
    leap: Annotated[int, Field(ge=1, description="How many of them a teacher's step goes down")] = 1
    jump_to: Annotated[JumpTo, Field(description="Where f jumps: origin (LCM), edge (PCM) or any (TCD)")] = "origin"
    phases: Annotated[int, Field(ge=1, description="edge: parts of the path, one a sampler step later")] = 4
    own_steps: Annotated[int, Field(ge=0, le=50, description="Taught on own paths of 1 to N sampler steps; 0: no")] = 0
    lead_in: Annotated[int, Field(ge=0, description="First optimizer steps that teach guidance alone")] = 0
    loss: Annotated[Distance, Field(description="Distance to the target: l2, huber (pseudo-) or cauchy")] = "huber"
    huber_c: Annotated[float, Field(gt=0, description="huber, cauchy: gaps above it weigh less than l2")] = 1e-3
    reward: Annotated[rewards.Rewards, Field(description="What is rewarded beside, with beta")] = rewards.Rewards()
    beta: Annotated[float, Field(ge=0, description="Weight of the reward; 0: plain distillation")] = 0.0


def texts(data: Any) -> list[str]:
    """What is embedded beside the captions: guidance compares with the empty prompt."""
    return [""]


def losses(config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """One loss per batch. UsageError: a teacher that is not the base model, a reward without a gradient."""
    if config.solver != "data":
        distillation.refuse_other_base(adapter)
    if config.beta and config.free_encoders:
        raise UsageError("free_encoders: a reward decodes pictures at every step; leave it off, or use beta = 0")
    wish = rewards.build(config.reward, model.device, model.dtype, differentiable=True) if config.beta else None
    return lessons(config, model, adapter, data, distillation_reward.Beside(wish, memory))


def lessons(
    config: Config, model: Backbone, adapter: Adapter, data: Stream, beside: distillation_reward.Beside
) -> Iterator[Loss]:
    """The losses of a run."""
    grids: dict[torch.Size, Grid] = {}

    def then(numbers: Mapping[str, float]) -> Turn:
        warnings, lost = beside.told(numbers, data.position >= config.steps * config.accumulate)
        return Turn(warnings=warnings, numbers=reward_loss.settled(numbers), failed=lost)

    for batch in data:
        size = batch.latents.shape[1:]
        times = grids[size] = grids.get(size) or distillation.grid(model, config.grid, size, config.leap)
        first = data.position <= config.lead_in * config.accumulate
        how = config.model_copy(update={"jump_to": "edge", "phases": config.grid}) if first else config
        ours, theirs, clean = both(how, model, adapter, batch, times)
        gap = ours - theirs
        value = (distillation.per_sample(config.loss, gap, config.huber_c, batch.masks) * batch.weights).mean()
        wished, seen = beside.of(model, clean, batch.prompts)
        numbers: dict[str, float | Tensor] = {"gap": gap.detach().square().mean().sqrt()}
        numbers |= {"consistency": value.detach(), **seen}
        yield Loss(value - config.beta * wished, numbers, then=then)


def both(config: Config, model: Backbone, adapter: Adapter, batch: Batch, times: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Where the student jumps from t, where it jumps from t' (no graph), and its clean estimate at t."""
    count, source, dim = len(batch.latents), batch.generator, hears(model)
    own = distillation_own.asked(config.own_steps, config.solver, times, count, source)
    index = own.index if own else distillation.indices(times, count, source)
    t, to = times.t[index], distillation.destination(config.jump_to, times, index, config.phases, source)
    before, w = times.before[index].maximum(to), distillation.guidance(config.w_min, config.w_max, count, source)
    noisy, w = model.noise(batch.latents, source, t=t), w.to(t.device)
    cond = told(embed(model, adapter, batch.prompts), w + 1, dim)
    x = own.walk(lambda rows, x, t: model.predict(x, t, cond[rows]), noisy.x, source) if own else noisy.x
    if config.solver == "data":
        after = model.noise(batch.latents, t=before, eps=noisy.eps).x
    else:
        scale = w if config.solver == "guided" else None
        after = times.jump(x, distillation.teach(model, adapter, x, t, batch.prompts, scale), t, before)
    known = config.jump_to == "edge" and config.phases == len(times)  # every target is the teacher's own point
    with torch.no_grad(), distillation.same_dropout(adapter, source):  # first: forgotten before there is a graph
        theirs = after if known else times.f(config.jump_to, after, model.predict(after, before, cond), before, to)
    with distillation.same_dropout(adapter, source):
        out = model.predict(x, t, cond)
    return times.f(config.jump_to, x, out, t, to), theirs, times.origin(x, out, t)
