"""Laws of one sampler step: what `walk` does, its log-probability, its divergence, its gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.distributions import Normal, kl_divergence

from studio.pipelines import sampling
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Cond, Step
from studio.pipelines.toy import Toy
from tests.pipelines.test_sampling import NOTHING, net, noise, seeds, with_scheduler

STOCHASTIC: list[tuple[str, dict[str, Any]]] = [
    ("ddim", {"eta": 1.0}),
    ("lcm", {}),
    ("tcd", {}),
    ("sde", {}),
    ("dance", {}),
]


def model(name: str) -> Any:
    """The toy, as a flow where the sampler is one of a flow."""
    return with_scheduler(FlowMatchEulerDiscreteScheduler(), "flow") if name in ("sde", "dance") else Toy()


def one(name: str = "lcm", scale: float = 1.0, dtype: torch.dtype = torch.float32, **options: Any) -> Step:
    """A sampler's second of four steps, from the same state; scale: what the network's output is multiplied by."""
    k = sampling.schedule(model(name), name, 4, **options)[1][1]
    return sampling.step(k, lambda *told: scale * net(*told), noise().to(dtype), NOTHING, noise().flip(0).to(dtype))


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_a_walk_is_its_steps(name: str, options: dict[str, Any]) -> None:
    """`step`, given the noise that `walk` draws, gives the same bits."""
    schedule = sampling.schedule(model(name), name, 4, **options)
    random, x = seeds(), noise() * schedule[0]
    for k, walked in zip(schedule[1], sampling.walk(schedule, net, noise(), NOTHING, seeds()), strict=True):
        taken = sampling.step(k, net, x, NOTHING, sampling.normal(x, random) if k.S else None)
        for field in ("x", "t", "out", "mean", "next", "clean"):
            assert torch.equal(getattr(taken, field), getattr(walked, field))
        x = taken.next


def test_noise_is_asked_for_and_only_where_there_is_any() -> None:
    first, *_, last = sampling.schedule(Toy(), "lcm", 4)[1]
    with pytest.raises(UsageError, match="adds noise"):
        sampling.step(first, net, noise(), NOTHING)
    assert torch.equal(
        sampling.step(last, net, noise(), NOTHING).next, sampling.step(last, net, noise(), NOTHING, noise()).next
    )


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_log_probability_is_the_normals(name: str, options: dict[str, Any]) -> None:
    step, action = one(name, **options), noise().roll(1, 0)
    each = Normal(step.mean, step.S).log_prob(action)
    assert torch.equal(step.log_prob(action), each.sum((1, 2, 3)))
    assert torch.equal(step.log_prob(action, "mean"), each.mean((1, 2, 3)))
    assert step.log_prob(action).shape == (2,)
    torch.testing.assert_close(step.log_prob(action), step.log_prob(action, "mean") * each[0].numel())


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_divergence_is_the_normals(name: str, options: dict[str, Any]) -> None:
    ours, base = one(name, **options), one(name, 0.7, **options)
    each = kl_divergence(Normal(ours.mean, ours.S), Normal(base.mean, base.S))
    torch.testing.assert_close(ours.kl(base), each.sum((1, 2, 3)))
    torch.testing.assert_close(ours.kl(base, "mean"), each.mean((1, 2, 3)))
    torch.testing.assert_close(ours.kl(base), base.kl(ours))
    assert (ours.kl(base) > 0).all()
    assert torch.equal(ours.kl(ours), torch.zeros(2))


@pytest.mark.parametrize("name", ["sde", "dance"])
def test_a_flows_divergence_in_velocities(name: str) -> None:
    """KL = |dt|/2 (s (1 - sigma) / (2 sigma) + 1/s)^2 |v - v'|^2, with s the noise per square root of time."""
    ours, base = one(name), one(name, 0.7)
    sigma, after = (k.t / 1000 for k in sampling.schedule(model(name), name, 4)[1][1:3])
    s = ours.S / (sigma - after) ** 0.5
    factor = (sigma - after) / 2 * (s * (1 - sigma) / (2 * sigma) + 1 / s) ** 2
    torch.testing.assert_close(ours.kl(base), factor * (ours.out - base.out).square().sum((1, 2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_step_again_has_the_same_probability(dtype: torch.dtype) -> None:
    """The ratio of a policy to itself is exactly 1."""
    first, again = one(dtype=dtype), one(dtype=dtype)
    assert first.log_prob(first.next).dtype == dtype
    assert torch.equal((again.log_prob(first.next) - first.log_prob(first.next)).exp(), torch.ones(2, dtype=dtype))


def test_half_precision_is_not_added_up() -> None:
    step = one()
    half = replace(step, mean=step.mean.bfloat16())
    assert half.log_prob(step.next).dtype == half.kl(step).dtype == torch.float32
    assert torch.equal(half.log_prob(step.next), replace(step, mean=half.mean.float()).log_prob(step.next))


def test_gradients_reach_the_mean_and_never_the_action() -> None:
    toy = Toy()
    weight = toy.net.attn2.to_v.weight.requires_grad_()
    k, cond = sampling.schedule(toy, "lcm", 4)[1][1], toy.embed(["a", "b"])
    step = sampling.step(k, toy.predict, noise(), cond, noise().flip(0))
    assert step.next.requires_grad
    (score,) = torch.autograd.grad(step.log_prob(step.next).sum(), weight, retain_graph=True)
    # with the action held, d log p = (a - mean) / S^2 d mean; were it not, the two would cancel
    held = (step.next - step.mean).detach() / k.S**2
    (wanted,) = torch.autograd.grad((held * step.mean).sum(), weight, retain_graph=True)
    torch.testing.assert_close(score, wanted)
    assert score.abs().sum() > 0
    with torch.no_grad():
        base = sampling.step(k, lambda *told: 0.9 * toy.predict(*told), noise(), cond, noise())
    (pull,) = torch.autograd.grad(step.kl(base).sum(), weight)
    assert pull.isfinite().all()
    assert pull.abs().sum() > 0


def test_a_step_without_noise_has_no_probability() -> None:
    still = [sampling.schedule(model(name), name, 4)[1][-1] for name in ("lcm", "tcd", "sde", "dance")]
    still += sampling.schedule(Toy(), "ddim", 4)[1]
    for k in still:
        step = sampling.step(k, net, noise(), NOTHING)
        with pytest.raises(UsageError, match="log-probability"):
            step.log_prob(step.next)
        with pytest.raises(UsageError, match="divergence"):
            step.kl(step)
    with pytest.raises(UsageError, match="the same step"):
        one("lcm").kl(one("tcd"))
    wrong: Any = "median"
    with pytest.raises(UsageError, match="sum or mean"):
        one().log_prob(noise(), wrong)


def test_a_batch_is_told_the_same_things() -> None:
    plain, more = Cond(torch.zeros(1, 1, 1)), Cond(torch.zeros(1, 1, 1), extra={"timestep_cond": torch.zeros(1, 4)})
    assert len(Cond.cat([more, more]).extra["timestep_cond"]) == 2
    for conds in ([plain, more], [more, plain]):
        with pytest.raises(UsageError, match="timestep_cond"):
            Cond.cat(conds)
