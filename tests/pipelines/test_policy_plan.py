"""Samplers as policies: actions, densities, and the same numbers when steps are computed again."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from studio.pipelines import policy_plan, sampling
from studio.pipelines.errors import UsageError
from studio.pipelines.policy_plan import Plan
from studio.pipelines.policy_settings import Policy
from studio.pipelines.protocols import Cond
from studio.pipelines.toy import Toy

COND = Cond(torch.zeros(4, 1, 1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(count: int = 4) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=seeded(1))


def like_sd() -> Toy:
    """The toy with Stable Diffusion's end of the schedule."""
    model = Toy()
    model.scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return model


def bent(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """A prediction of the picture and the time, in the type of x."""
    return (0.3 * x + t.to(x.dtype)[:, None, None, None] / 1000).sin()


@pytest.mark.parametrize(("name", "steps", "actions"), [("lcm", 4, 3), ("lcm", 2, 1), ("ddim", 5, 4), ("tcd", 4, 3)])
def test_each_noisy_step_is_one_action(name: str, steps: int, actions: int) -> None:
    """The toy's DDIM ends at alpha = 1, where the last step's density would be that of a point."""
    plan = Plan.of(sampling.schedule(Toy(), name, steps, eta=1.0))
    states, log_probs, clean = plan.play(bent, start(), COND, seeded(), 1, "mean")
    assert plan.acting.tolist() == list(range(actions))
    assert log_probs.shape == (4, actions)
    assert log_probs.isfinite().all()
    assert states.shape == (4, steps, 2, 4, 4)
    assert clean.shape == (4, 2, 4, 4)


def test_a_last_step_with_noise_is_an_action_and_its_state_is_kept() -> None:
    """SD's own schedule ends at the first timestep's level: DDIM with eta = 1 then has as many actions as steps."""
    model = like_sd()
    plan = Plan.of(sampling.schedule(model, "ddim", 5, eta=1.0))
    states, log_probs, clean = plan.play(bent, start(), COND, seeded(), 1, "mean")
    assert log_probs.shape == (4, 5)
    assert log_probs.isfinite().all()
    assert states.shape[1] == 6
    assert torch.equal(states[:, -1], clean)


@pytest.mark.parametrize(("name", "steps", "eta"), [("lcm", 1, 0.0), ("ddim", 5, 0.0), ("pcm", 4, 0.0)])
def test_a_sampler_without_noise_is_no_policy(name: str, steps: int, eta: float) -> None:
    with pytest.raises(UsageError, match="no action to learn; use more steps .*alignprop"):
        Plan.of(sampling.schedule(Toy(), name, steps, eta=eta))


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_it_draws_what_diffusers_lcm_draws_and_keeps_what_the_network_saw(steps: int) -> None:
    seen: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        seen.append(x)
        return bent(x, t, cond)

    model = Toy()
    plan = Plan.of(sampling.schedule(model, "lcm", steps))
    states, _, clean = plan.play(watched, start(), COND, seeded(), 1, "mean")
    scheduler = LCMScheduler.from_config(model.scheduler.config)
    scheduler.set_timesteps(steps)
    x, generator = start(), seeded()
    for k, t in enumerate(scheduler.timesteps):
        assert torch.equal(states[:, k], seen[k])
        torch.testing.assert_close(states[:, k], x, atol=1e-5, rtol=2e-6)
        assert plan.steps[k].t == t
        out = scheduler.step(bent(x, t.expand(4), COND), t, x, generator=generator)
        x = out.prev_sample
    assert torch.equal(x, out.denoised)
    torch.testing.assert_close(clean, x, atol=1e-5, rtol=2e-6)


def everything(plan: Plan, states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All (picture, step) pairs in a drawn order: states, actions, steps, and the order."""
    count, actions = len(states), len(plan.acting)
    order = torch.randperm(count * actions, generator=seeded(3))
    rows, k = order // actions, plan.acting[order % actions]
    return states[rows, k], states[rows, k + 1], k, order


def test_again_the_ratio_is_exactly_one() -> None:
    """In float64 whatever the rows are; in float32 for rows that come together as they were drawn."""
    for name in ("lcm", "ddim"):
        plan = Plan.of(sampling.schedule(Toy(), name, 6, eta=1.0))
        states, log_probs, _ = plan.play(bent, start().double(), COND, seeded(), 1, "mean")
        assert states.dtype == log_probs.dtype == torch.float64
        x, actions, k, order = everything(plan, states)
        again = plan.again(bent, x, k, COND).log_prob(actions, "mean")
        assert (again - log_probs.flatten()[order]).abs().max() == 0


def test_the_same_ratio_on_a_network_and_nearly_so_in_other_batches() -> None:
    model = Toy()
    cond = model.embed(["a cat"] * 4)
    plan = Plan.of(sampling.schedule(model, "lcm", 4))
    with torch.no_grad():
        states, log_probs, _ = plan.play(model.predict, start(), cond, seeded(), 1, "mean")
        for j, k in enumerate(plan.acting.tolist()):
            again = plan.again(model.predict, states[:, k], torch.full((4,), k), cond)
            assert torch.equal(again.log_prob(states[:, k + 1], "mean"), log_probs[:, j])
        x, actions, k, order = everything(plan, states)
        again = plan.again(model.predict, x[:5], k[:5], model.embed(["a cat"] * 5))
        log_ratio = again.log_prob(actions[:5], "mean") - log_probs.flatten()[order[:5]]
    assert (log_ratio.exp() - 1).abs().max() < 1e-6


def test_log_probabilities_are_those_of_the_gaussian() -> None:
    plan = Plan.of(sampling.schedule(Toy(), "lcm", 4))
    states, log_probs, _ = plan.play(bent, start().double(), COND, seeded(), 1, "mean")
    x, actions, k, order = everything(plan, states)
    t = torch.tensor([step.t for step in plan.steps])[k]
    A, B, S = (
        torch.tensor([getattr(step, name) for step in plan.steps]).double()[k][:, None, None, None] for name in "ABS"
    )
    density = Normal(A * x + B * bent(x, t, COND), S).log_prob(actions).flatten(1)
    again = plan.again(bent, x, k, COND)
    torch.testing.assert_close(again.log_prob(actions, "mean"), density.mean(1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(again.log_prob(actions, "sum"), 32 * again.log_prob(actions, "mean"))
    torch.testing.assert_close(log_probs.flatten()[order], density.mean(1), atol=1e-6, rtol=1e-6)


def test_kl_is_the_exact_one() -> None:
    plan = Plan.of(sampling.schedule(Toy(), "lcm", 4))
    states, _, _ = plan.play(bent, start().double(), COND, seeded(), 1, "mean")
    x, _, k, _ = everything(plan, states)
    mine = plan.again(bent, x, k, COND)
    other = plan.again(lambda x, t, cond: bent(x, t, cond) + 0.1, x, k, COND)
    assert torch.equal(mine.kl(mine, "sum"), torch.zeros(12).double())
    B, S = (torch.tensor([getattr(step, name) for step in plan.steps]).double()[k] for name in "BS")
    one, two = Normal(torch.zeros(12).double(), S), Normal(0.1 * B, S)
    torch.testing.assert_close(mine.kl(other, "sum"), 32 * kl_divergence(one, two))
    torch.testing.assert_close(mine.kl(other, "mean"), kl_divergence(one, two))


def test_terminal_noise_is_one_more_action_and_changes_no_picture() -> None:
    """Its Gaussian is the finished latents noised back to the last step's level."""
    model = Toy()
    schedule = sampling.schedule(model, "lcm", 4)
    plain, extra = Plan.of(schedule), Plan.of(schedule, policy_plan.terminal(model, schedule[1][-1]))
    states, log_probs, clean = plain.play(bent, start(), COND, seeded(), 1, "mean")
    more, more_probs, same = extra.play(bent, start(), COND, seeded(), 1, "mean")
    assert torch.equal(clean, same)
    assert torch.equal(more[:, :4], states)
    assert torch.equal(more_probs[:, :3], log_probs)
    assert more_probs.shape == (4, 4)
    a = model.alphas_cumprod[int(schedule[1][-1].t)]
    density = Normal(a.sqrt() * clean, (1 - a).sqrt()).log_prob(more[:, 4]).flatten(1).mean(1)
    torch.testing.assert_close(more_probs[:, 3], density)
    again = extra.again(bent, more[:, 3], torch.full((4,), 3), COND)
    assert torch.equal(again.log_prob(more[:, 4], "mean"), more_probs[:, 3])


def test_groups_of_rows_draw_noise_in_turn() -> None:
    """So two passes in one call are the pictures that two calls would draw."""
    plan = Plan.of(sampling.schedule(Toy(), "lcm", 2))
    together = policy_plan.fresh(start(4), seeded(), 2)
    generator = seeded()
    assert torch.equal(together, torch.cat([policy_plan.fresh(start(2), generator, 1) for _ in range(2)]))
    assert plan.kept == 2


def test_the_path_leads_to_the_finished_latents() -> None:
    plan = Plan.of(sampling.schedule(Toy(), "lcm", 4), path=True)
    states, _, clean = plan.play(bent, start(), COND, seeded(), 1, "mean")
    assert torch.equal(plan.finish(bent, states[:, -1], COND), clean)
    model = like_sd()
    with pytest.raises(UsageError, match="pathwise: .*use 0"):
        Plan.of(sampling.schedule(model, "ddim", 4, eta=1.0), path=True)


def test_clip_defaults_belong_to_the_reduction() -> None:
    assert Policy().clip_ratio == 1e-4
    assert Policy(logprob_reduction="sum").clip_ratio == 0.2
    assert Policy(clip_range=0.01).clip_ratio == 0.01
