"""Laws of the samplers of distilled models: LCM, TCD and PCM, equal to diffusers' and noise-free at the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler

from studio.pipelines import sampling, schedules_few
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.schedules import Coefficients
from studio.pipelines.toy import Toy
from tests.pipelines.test_sampling import CLOSE, NOTHING, SD, linear, net, noise, reference, seeds, with_scheduler

MODELS: tuple[dict[str, Any], ...] = (
    {"prediction_type": "epsilon"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
)
PAPER = {  # RLCM's own choice of timesteps, which diffusers had before
    4: [999, 759, 519, 279],
    8: [999, 879, 759, 639, 519, 399, 279, 159],
}
NOW = {
    4: [999, 759, 499, 259],
    8: [999, 879, 759, 639, 499, 379, 259, 139],
    16: [999, 939, 879, 819, 759, 699, 639, 579, 499, 439, 379, 319, 259, 199, 139, 79],
}


def like(settings: dict[str, Any]) -> Any:
    """The toy with this schedule and prediction type."""
    return with_scheduler(DDIMScheduler(**SD, **settings, clip_sample=False), settings["prediction_type"])


def coefficients(model: Any, name: str, steps: int, **options: Any) -> list[Coefficients]:
    return sampling.schedule(model, name, steps, **options)[1]


@pytest.mark.parametrize("settings", MODELS)
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
def test_lcm_is_diffusers_lcm(settings: dict[str, Any], steps: int) -> None:
    path = list(sampling.lcm(like(settings), net, noise(), NOTHING, steps, seeds()))
    linear(path)
    scheduler, random = LCMScheduler(**SD, **settings), seeds()
    scheduler.set_timesteps(steps)
    for step, t in zip(path, scheduler.timesteps, strict=True):  # each from our state: 50 steps amplify rounding
        state, clean = scheduler.step(step.out, t, step.x, generator=random, return_dict=False)
        torch.testing.assert_close(step.next, state, **CLOSE)
        torch.testing.assert_close(step.clean, clean, **CLOSE)
    assert path[-1].S == 0
    torch.testing.assert_close(path[-1].next, path[-1].clean, rtol=0, atol=0)


@pytest.mark.parametrize("settings", MODELS)
@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd_is_diffusers_tcd(settings: dict[str, Any], steps: int, gamma: float) -> None:
    schedule = sampling.schedule(like(settings), "tcd", steps, gamma=gamma)
    path = list(sampling.walk(schedule, net, noise(), NOTHING, seeds()))
    linear(path)
    wanted = reference(TCDScheduler(**SD, **settings), steps, seeds(), eta=gamma)
    for step, state in zip(path, wanted, strict=True):
        torch.testing.assert_close(step.next, state, **CLOSE)
    assert path[-1].S == 0


def test_timesteps_are_those_of_the_table() -> None:
    """diffusers' choice is the default, the paper's can be given."""
    for steps, times in NOW.items():
        for name in ("lcm", "tcd"):
            assert [k.t for k in coefficients(Toy(), name, steps)] == times
    for steps, times in PAPER.items():
        found = coefficients(Toy(), "lcm", steps, timesteps=times)
        assert [k.t for k in found] == times
        assert [k.S > 0 for k in found] == [True] * (steps - 1) + [False]


@pytest.mark.parametrize("settings", MODELS)
def test_given_timesteps_are_diffusers_given_timesteps(settings: dict[str, Any]) -> None:
    schedule = sampling.schedule(like(settings), "lcm", 8, timesteps=PAPER[8])
    path, random, x = list(sampling.walk(schedule, net, noise(), NOTHING, seeds())), seeds(), noise()
    scheduler = LCMScheduler(**SD, **settings)
    scheduler.set_timesteps(timesteps=PAPER[8])
    for step, t in zip(path, scheduler.timesteps, strict=True):
        x = scheduler.step(net(x, t.expand(2), NOTHING), t, x, generator=random).prev_sample
        torch.testing.assert_close(step.next, x, **CLOSE)


def test_boundary_scalings() -> None:
    """f(x, 0) = x exactly, elsewhere f is the clean estimate but for a trace of x."""
    assert schedules_few.scalings(0) == (1.0, 0.0)
    skip, out = schedules_few.scalings(19)
    assert skip == pytest.approx(6.9e-6, rel=1e-2)
    assert out == pytest.approx(0.9999965, abs=1e-7)
    assert schedules_few.scalings(999)[0] == pytest.approx(2.5e-9, rel=1e-2)
    stock = LCMScheduler()
    for t in (0, 1, 19, 259, 999):
        assert schedules_few.scalings(t) == pytest.approx(stock.get_scalings_for_boundary_condition_discrete(t))
    for settings in MODELS:
        last = coefficients(like(settings), "lcm", 2, timesteps=[999, 0])[-1]
        assert (last.A, last.B, last.C, last.D) == (1.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize("settings", MODELS)
@pytest.mark.parametrize(
    ("name", "options"),
    [("ddim", {}), ("ddim", {"eta": 1.0}), ("lcm", {}), ("tcd", {"gamma": 0.3}), ("tcd", {"gamma": 1.0}), ("pcm", {})],
)
def test_a_perfect_answer_keeps_the_marginals(settings: dict[str, Any], name: str, options: dict[str, Any]) -> None:
    """Told the truth, every step leaves sqrt(a') of the picture and a standard deviation of sqrt(1 - a') of noise."""
    model = like(settings | {"timestep_spacing": "trailing"})
    if name == "ddim" and settings["prediction_type"] == "epsilon":
        model = like(settings)
    alphas = model.scheduler.alphas_cumprod.double()
    found = coefficients(model, name, 10, **options)
    levels = [float(alphas[int(k.t)]) for k in found]
    for k, a, after in zip(found, levels, levels[1:], strict=False):
        # what the network says of clean x0 = 1 and of noise, and so x' = picture x0 + (kept noise) + S z
        said = {"epsilon": (0.0, 1.0), "v_prediction": (-((1 - a) ** 0.5), a**0.5)}[settings["prediction_type"]]
        picture, kept = k.A * a**0.5 + k.B * said[0], k.A * (1 - a) ** 0.5 + k.B * said[1]
        assert picture == pytest.approx(after**0.5, abs=1e-5)
        assert kept**2 + k.S**2 == pytest.approx(1 - after, abs=1e-5)
        assert k.C * a**0.5 + k.D * said[0] == pytest.approx(1.0, abs=1e-5)


def test_tcd_between_ddim_and_lcm() -> None:
    """gamma = 0 is DDIM over the same timesteps, gamma = 1 noises the estimate for timestep 0 anew."""
    ddim, lcm = coefficients(Toy(), "ddim", 8, timesteps=NOW[8]), coefficients(Toy(), "lcm", 8)
    still, anew = (coefficients(Toy(), "tcd", 8, gamma=gamma) for gamma in (0.0, 1.0))
    for ours, plain in zip(still[:-1], ddim[:-1], strict=True):
        assert pytest.approx((plain.A, plain.B, 0.0), abs=1e-9) == (ours.A, ours.B, ours.S)
    for ours, fresh in zip(anew[:-1], lcm[:-1], strict=True):
        assert pytest.approx((fresh.A, fresh.S), rel=5e-3) == (ours.A, ours.S)
        assert 0 < ours.B - fresh.B < 0.03


@pytest.mark.parametrize(("phases", "wanted"), [(1, [0]), (2, [0, 499]), (4, [0, 239, 499, 739])])
def test_phases_end_where_pcm_cuts(phases: int, wanted: list[int]) -> None:
    model: Any = Toy()
    grid = schedules_few.grid(LCMScheduler.from_config(model.scheduler.config))
    assert grid == list(range(19, 1000, 20))
    assert schedules_few.edges(grid, phases) == wanted
    found = coefficients(model, "pcm", phases)
    assert [k.t for k in found] == [999, *wanted[:0:-1]]
    assert all(k.S == 0 for k in found)
    with pytest.raises(UsageError, match="51 phases"):
        schedules_few.edges(grid, 51)


def test_given_timesteps_of_ddim_are_its_own() -> None:
    """Where the stride divides the schedule, naming DDIM's timesteps changes no bit; two phases are trailing DDIM."""
    model = like({"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True})
    for eta in (0.0, 1.0):
        own = coefficients(model, "ddim", 10, eta=eta)
        assert coefficients(model, "ddim", 10, eta=eta, timesteps=[k.t for k in own]) == own
    assert coefficients(model, "pcm", 2) == coefficients(model, "ddim", 2)


@pytest.mark.parametrize("times", [[999, 999], [499, 999], [1000, 1], [999, -1], [999], [999.5, 0], []])
@pytest.mark.parametrize("name", ["ddim", "lcm", "tcd"])
def test_impossible_timesteps_are_refused(name: str, times: list[float]) -> None:
    with pytest.raises(UsageError, match="timesteps"):
        sampling.schedule(Toy(), name, 2, timesteps=times)


def test_what_cannot_be_is_refused() -> None:
    for name in ("lcm", "tcd"):
        for steps in (0, 51):
            with pytest.raises(UsageError, match="give 1 to 50"):
                sampling.schedule(Toy(), name, steps)
    for name in ("euler", "pcm"):
        with pytest.raises(UsageError, match="chooses its timesteps"):
            sampling.schedule(Toy(), name, 2, timesteps=[999, 499])
    with pytest.raises(UsageError, match="gamma"):
        sampling.schedule(Toy(), "tcd", 2, gamma=1.5)
    for name in ("sde", "dance", "unknown"):
        with pytest.raises(UsageError, match=f"sampler '{name}'"):
            sampling.schedule(Toy(), name, 2)
    blind = like({"prediction_type": "epsilon", "rescale_betas_zero_snr": True})
    clipped = with_scheduler(DDIMScheduler(**SD, clip_sample=True), "epsilon")
    for name in ("lcm", "tcd", "pcm"):
        with pytest.raises(ModelError, match="zero terminal SNR"):
            sampling.schedule(blind, name, 4)
        with pytest.raises(ModelError, match="clip_sample"):
            sampling.schedule(clipped, name, 4)


def test_the_samplers_name_is_the_models_own() -> None:
    toy = Toy()
    for name in ("lcm", "tcd", "pcm"):
        assert sampling.by_name(toy, name).__name__ == name
    assert sampling.by_name(with_scheduler(LCMScheduler(**SD), "epsilon")) is sampling.lcm
    assert sampling.by_name(with_scheduler(TCDScheduler(**SD), "epsilon")) is sampling.tcd


def test_a_models_own_grid_counts() -> None:
    model = with_scheduler(LCMScheduler(**SD, original_inference_steps=10), "epsilon")
    assert [k.t for k in coefficients(model, "lcm", 5)] == [999, 799, 599, 399, 199]
    with pytest.raises(UsageError, match="give 1 to 10"):
        sampling.schedule(model, "lcm", 11)


@pytest.mark.parametrize("name", ["lcm", "tcd", "pcm"])
def test_a_few_step_picture_does_not_depend_on_its_batch(name: str) -> None:
    settings: dict[str, Any] = {"steps": 4, "sampler": name}
    prompts, numbers = ["a cat", "the dog", "a red house"], [5, 6, 5]
    together = list(sampling.sample(Toy(), prompts, numbers, batch=2, **settings))
    for prompt, number, picture in zip(prompts, numbers, together, strict=True):
        (alone,) = sampling.sample(Toy(), [prompt], [number], **settings)
        torch.testing.assert_close(alone, picture, rtol=0, atol=1e-5)


def test_a_few_step_sampler_asks_once_per_step() -> None:
    """Distilled models have the guidance inside: without a scale no second prediction is made."""
    toy: Any = Toy()
    rows: list[int] = []
    whole = toy.forward
    toy.forward = lambda x, t, cond: (rows.append(len(x)), whole(x, t, cond))[1]
    list(sampling.sample(toy, ["a"], [1], steps=4, sampler="lcm"))
    assert rows == [1] * 4
    list(sampling.sample(toy, ["a"], [1], steps=4, sampler="lcm", guidance_scale=1.5))
    assert rows[4:] == [2] * 4
