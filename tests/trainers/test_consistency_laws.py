"""Rewards through few-step models (ROCM, RG-LCD), and phased sampling (PCM)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import LCMScheduler
from torch import Tensor

from studio.pipelines import backbone, distillation, distillation_reward, rewards, sampling, schedules
from studio.pipelines.guidance import cfg
from studio.pipelines.schedules_few import pcm
from studio.trainers import lcm, rewarded
from tests import alignprop as cases
from tests.alignprop import Lesson, lesson
from tests.trainers.test_lcm import drawn, moved

FEW: dict[str, Any] = {"sampler": "lcm", "guidance_scale": 1.0, "truncation": {"mode": "full"}, "learnt": 0.3}


def slopes(one: Lesson, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, one.adapter.parameters()))


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    size = max(float(gradient.abs().max()) for gradient in wanted)
    assert size > 1e-5
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4 * size)


def test_one_step_is_the_reward_of_guided_distillation_from_pure_noise() -> None:
    """H = 1: RG-LCD's term at t = 999, the reward of the clean estimate there, and its gradient."""
    one = lesson(sampler_steps=1, **FEW)
    batch, model = one.stream.at(0), one.model
    x = torch.randn(batch.latents.shape, generator=batch.generator)
    times = distillation.grid(model, 50, batch.latents.shape[1:])
    t = torch.full((len(x),), 999)
    assert int(times.t[-1]) == 999
    clean = times.origin(x, model.predict(x, t, model.embed(batch.prompts)), t)
    wish = rewards.build(one.config.reward, model.device, model.dtype, differentiable=True)
    wished, _ = distillation_reward.Beside(wish, {}).of(model, clean, batch.prompts)
    loss = one.loss()
    torch.testing.assert_close(loss.value.detach(), -wished.detach(), rtol=1e-4, atol=1e-6)
    same(slopes(one, loss.value), slopes(one, -wished))


def test_the_gradient_is_that_of_diffusers_unrolled_chain() -> None:
    """H = 4: autograd through every step of its LCM scheduler, the noise between them taken as given."""
    one = lesson(sampler_steps=4, **FEW)
    batch, model = one.stream.at(0), one.model
    scheduler = schedules.own_schedule(model, LCMScheduler)
    scheduler.set_timesteps(4)
    x, cond = torch.randn(batch.latents.shape, generator=batch.generator), model.embed(batch.prompts)
    for t in scheduler.timesteps:
        out = model.predict(x, t.expand(len(x)), cond)
        x = scheduler.step(out, t, x, generator=batch.generator, return_dict=False)[0]
    value = -cases.warmth(rewarded.pictures(model, x), batch.prompts, None).mean()
    loss = one.loss()
    torch.testing.assert_close(loss.value.detach(), value.detach(), rtol=1e-4, atol=1e-6)
    same(slopes(one, loss.value), slopes(one, value))
    assert float(lesson(sampler_steps=4, beta=1.0, **{**FEW, "learnt": 0.0}).loss().numbers["drift"]) == 0


# phased sampling


def test_phased_sampling_draws_nothing_and_repeats_to_the_last_bit() -> None:
    model = backbone.load("toy")
    adapter = moved(model)
    x, cond = torch.randn(2, 2, 4, 4), model.embed(["a cat", "a red dog"])
    for phases in (1, 2, 4):
        assert all(step.S == 0 for step in pcm(model, phases)[1])
        found = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            with torch.no_grad():
                found.append([step.next for step in sampling.pcm(model, model.predict, x, cond, phases)])
            assert torch.equal(torch.get_rng_state(), before)
        assert len(found[0]) == phases
        assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    with adapter.off(), torch.no_grad():
        *_, last = sampling.pcm(model, model.predict, x, cond, 4)
    assert not torch.equal(last.next, found[0][-1])


def test_phased_distillation_at_w_0_is_without_guidance() -> None:
    """The teacher's step, the target at the phase's edge, and sampling at a scale of 1 = w + 1."""
    model = backbone.load("toy")
    adapter = moved(model)
    times = distillation.grid(model, 50, torch.Size((2, 4, 4)))
    batch = next(iter(drawn(model)))
    x, t = batch.latents, times.t[torch.tensor([3, 17, 30, 49])]
    teach = [distillation.teach(model, adapter, x, t, batch.prompts, w) for w in (torch.zeros(4), None)]
    torch.testing.assert_close(*teach, rtol=1e-5, atol=1e-6)
    found = []
    for how in ({"w_min": 0.0, "w_max": 0.0}, {"solver": "plain"}, {}):
        config = lcm.Config(jump_to="edge", phases=4, **how)  # type: ignore[arg-type]
        found.append(lcm.both(config, model, adapter, next(iter(drawn(model))), times))
    for zero, plain, guided in list(zip(*found, strict=True))[1:2]:
        torch.testing.assert_close(zero, plain, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(zero, guided, rtol=1e-2, atol=1e-3)
    assert cfg(1.0, model.embed([""]))(model.predict) == model.predict
