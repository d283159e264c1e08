"""Laws of the stochastic samplers of flow matching: the flow's own marginals, Euler's method without noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMScheduler

from studio.pipelines import sampling
from studio.pipelines.errors import UsageError
from studio.pipelines.schedules import Coefficients
from tests.models import backbone
from tests.pipelines.test_sampling import CLOSE, NOTHING, linear, net, noise, reference, seeds, with_scheduler

SPREAD = 0.5  # the standard deviation of the Gaussian toy's pictures


def flow(**settings: Any) -> Any:
    """The toy as a flow-matching model."""
    return with_scheduler(FlowMatchEulerDiscreteScheduler(**settings), "flow")


def coefficients(name: str, steps: int, model: Any = None, **options: Any) -> list[Coefficients]:
    return sampling.schedule(model or flow(), name, steps, **options)[1]


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("settings", [{}, {"shift": 3.0}])
def test_lcm_of_a_flow_is_diffusers(steps: int, settings: dict[str, Any]) -> None:
    path = list(sampling.lcm(flow(**settings), net, noise(), NOTHING, steps, seeds()))
    linear(path)
    for step, state in zip(path, reference(FlowMatchLCMScheduler(**settings), steps, seeds()), strict=True):
        torch.testing.assert_close(step.next, state, **CLOSE)
    assert path[-1].S == 0
    torch.testing.assert_close(path[-1].next, path[-1].clean)
    assert coefficients("lcm", steps) == coefficients("euler", steps, flow(stochastic_sampling=True))


@pytest.mark.parametrize("name", ["sde", "dance"])
def test_without_noise_it_is_eulers_method(name: str) -> None:
    for settings in ({}, {"shift": 3.0}):
        model = flow(**settings)
        assert coefficients(name, 10, model, level=0.0) == coefficients("euler", 10, model)
        exact = coefficients("euler", 10, model)
        for small in (1e-2, 1e-4):
            for k, plain in zip(coefficients(name, 10, model, level=small), exact, strict=True):
                assert pytest.approx((plain.A, plain.B), abs=10 * small**2) == (k.A, k.B)
                assert pytest.approx(0, abs=4 * small) == k.S


@pytest.mark.parametrize(("name", "level"), [("sde", 0.7), ("dance", 0.3)])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_step_is_the_papers(name: str, level: float, shift: float) -> None:
    """Mean and noise of Flow-GRPO and DanceGRPO, written as they write them; the last step is Euler's."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10)
    sigmas = scheduler.sigmas.double().tolist()
    x, v = noise().double(), noise().double().cos()
    found = coefficients(name, 10, flow(shift=shift))
    assert sigmas[0] == 1
    for k, sigma, after in zip(found[:-1], sigmas, sigmas[1:], strict=False):
        dt = after - sigma
        s = level * math.sqrt(sigma / (1 - (sigmas[1] if sigma == 1 else sigma))) if name == "sde" else level
        mean = x * (1 + s**2 / (2 * sigma) * dt) + v * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt
        torch.testing.assert_close(k.A * x + k.B * v, mean, rtol=1e-12, atol=1e-12)
        assert pytest.approx(s * math.sqrt(-dt)) == k.S
        # DanceGRPO's own form: the score of x from the clean estimate
        score = -(x - (1 - sigma) * (x - sigma * v)) / sigma**2
        torch.testing.assert_close(mean, x + v * dt - s**2 / 2 * score * dt, rtol=1e-9, atol=1e-9)
    assert (found[-1].A, found[-1].S) == (1.0, 0.0)
    assert -sigmas[-2] == found[-1].B


def spreads(found: list[Coefficients]) -> list[tuple[float, float]]:
    """Of each state the standard deviation it has and the one the flow has there, for pictures N(0, SPREAD^2)."""
    variance, pairs = 1.0, []
    sigmas = [k.t / 1000 for k in found] + [0.0]
    for k, sigma, after in zip(found, sigmas, sigmas[1:], strict=False):
        total = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
        said = (sigma - (1 - sigma) * SPREAD**2) / total  # the best velocity is linear in x
        variance = (k.A + k.B * said) ** 2 * variance + k.S**2
        pairs.append((variance**0.5, ((1 - after) ** 2 * SPREAD**2 + after**2) ** 0.5))
    return pairs


@pytest.mark.parametrize(("name", "level"), [("euler", 0.0), ("sde", 0.7), ("dance", 0.3), ("dance", 1.0)])
def test_marginals_are_the_flows(name: str, level: float) -> None:
    """On Gaussian pictures the states' spread is the flow's, the better the more steps."""
    errors = []
    for steps in (50, 200, 800):
        pairs = spreads(coefficients(name, steps, level=level))
        # near sigma = 1 Flow-GRPO's noise is large however short the step; later steps forget it
        inner = pairs[len(pairs) // 5 : -(len(pairs) // 20)]
        errors.append(max(abs(found / wanted - 1) for found, wanted in inner))
    assert errors[0] < 0.05
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.01


def test_the_noise_is_seen_in_samples() -> None:
    """The same law by drawing: 4,000 chains on the Gaussian toy end as the pictures are spread."""

    def best(x: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
        sigma = (t.float() / 1000).view(-1, 1, 1, 1)
        return x * (sigma - (1 - sigma) * SPREAD**2) / ((1 - sigma) ** 2 * SPREAD**2 + sigma**2)

    x = torch.randn(1000, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    random = [torch.Generator().manual_seed(i) for i in range(1000)]
    *_, last = sampling.walk(sampling.schedule(flow(), "sde", 60, shape=x.shape), best, x, NOTHING, random)
    assert last.next.std().item() == pytest.approx(SPREAD, rel=0.05)


def test_given_timesteps_of_a_flow() -> None:
    """1000 sigma, as they are; the model's own give the same coefficients."""
    own = coefficients("sde", 5, flow(shift=3.0))
    given = coefficients("sde", 5, flow(shift=3.0), timesteps=[k.t for k in own])
    for k, same in zip(given, own, strict=True):
        assert (k.t, k.A, k.B, k.S) == pytest.approx((same.t, same.A, same.B, same.S), rel=1e-5, abs=1e-6)
    for name in ("sde", "dance", "euler", "lcm"):  # a step from no noise to none changes nothing
        assert coefficients(name, 2, timesteps=[1000.0, 0.0])[1] == Coefficients(0.0, 1.0, 0.0, 0.0, 1.0, 0.0)
    with pytest.raises(UsageError, match="timesteps"):
        coefficients("euler", 2, timesteps=[500.0, 600.0])
    with pytest.raises(UsageError, match="noise level"):
        coefficients("sde", 2, level=-1.0)


@pytest.mark.parametrize("name", ["lcm", "sde", "dance"])
def test_a_flows_picture_does_not_depend_on_its_batch(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = backbone("tiny-sd3", tmp_path_factory.getbasetemp() / "flow-models")
    settings: dict[str, Any] = {"steps": 3, "sampler": name, "guidance_scale": 2.0}
    prompts, numbers = ["a cat", "the dog", "a red house"], [5, 6, 5]
    together = list(sampling.sample(model, prompts, numbers, batch=2, **settings))
    for prompt, number, picture in zip(prompts, numbers, together, strict=True):
        (alone,) = sampling.sample(model, [prompt], [number], **settings)
        torch.testing.assert_close(alone, picture, rtol=0, atol=1e-3)
    assert not torch.equal(together[0], together[2])


def test_names_of_a_flow() -> None:
    assert sampling.by_name(flow()) is sampling.flow_euler
    for name in ("lcm", "sde", "dance"):
        assert sampling.by_name(flow(), name).__name__ == name
    for name in ("ddim", "tcd", "pcm"):
        with pytest.raises(UsageError, match=f"sampler '{name}'"):
            sampling.by_name(flow(), name)
