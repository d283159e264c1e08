"""Laws of the samplers: equal to diffusers' schedulers, linear, pictures depend on their seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from studio.pipelines import sampling
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Backbone, Cond, Step
from studio.pipelines.toy import Toy
from tests.models import BACKBONES, FOLDERS, backbone

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
NOTHING = Cond(torch.zeros(2, 1, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def with_scheduler(scheduler: Any, prediction: str) -> Any:
    """The toy under another schedule and prediction type."""
    toy: Any = Toy()
    toy.scheduler, toy.prediction = scheduler, prediction
    return toy


def net(x: torch.Tensor, t: torch.Tensor, cond: Cond) -> torch.Tensor:
    """A smooth nonlinear stand-in for a network: bounded, and different at every time."""
    return torch.sin(x + t.float().view(-1, 1, 1, 1) / 300)


def noise() -> torch.Tensor:
    return torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(7))


def seeds(first: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(2)]


def reference(
    scheduler: Any, steps: int, generators: Sequence[torch.Generator] | None = None, **extra: Any
) -> list[torch.Tensor]:
    """The trajectory of a diffusers scheduler, as its pipelines walk it, in the scheduler's own scale."""
    scheduler.set_timesteps(steps)
    x = noise() * getattr(scheduler, "init_noise_sigma", 1.0)
    states = []
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        extra |= {} if generators is None else {"generator": generators}
        x = scheduler.step(net(seen, t.expand(2), NOTHING), t, x, **extra).prev_sample
        states.append(x)
    return states


def linear(path: list[Step]) -> None:
    """Every step says of itself: mean = A x + B out, next = mean + S z, and the next step starts there."""
    for step, after in zip(path, [*path[1:], None], strict=True):
        torch.testing.assert_close(step.mean, step.A * step.x + step.B * step.out)
        assert step.std == step.S >= 0
        if step.S == 0:
            assert torch.equal(step.next, step.mean)
        if after is not None:
            assert torch.equal(after.x, step.next)


CASES = [
    (kind, zero, spacing, steps, offset)
    for kind in ("epsilon", "v_prediction")
    for zero in (False, True)
    for spacing, offset in (("leading", 1), ("trailing", 0), ("linspace", 0))
    for steps in (1, 7, 20)
    if not (zero and kind == "epsilon" and spacing != "leading")
]


@pytest.mark.parametrize(("kind", "zero", "spacing", "steps", "offset"), CASES)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("to_one", [True, False])
def test_ddim_is_diffusers_ddim(
    kind: str, zero: bool, spacing: str, steps: int, offset: int, eta: float, to_one: bool
) -> None:
    settings = {"prediction_type": kind, "rescale_betas_zero_snr": zero, "timestep_spacing": spacing}
    settings |= {"steps_offset": offset, "set_alpha_to_one": to_one, "clip_sample": False}
    model = with_scheduler(DDIMScheduler(**SD, **settings), kind)
    path = list(sampling.ddim(model, net, noise(), NOTHING, steps, eta, seeds()))
    scheduler: Any = DDIMScheduler(**SD, **settings)
    if eta:  # in float32 its variance loses digits: at zero terminal SNR with eta = 1 it is nan
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    rounded = min(eta, 1 - 1e-12)  # at 1 and no signal it takes the root of 0, or of a rounding below
    wanted = reference(scheduler, steps, seeds(), eta=rounded)
    linear(path)
    for step, state in zip(path, wanted, strict=True):
        torch.testing.assert_close(step.next, state, **CLOSE)


@pytest.mark.parametrize(("kind", "zero", "spacing", "steps", "offset"), CASES)
@pytest.mark.parametrize("sigmas", ["", "use_karras_sigmas", "use_exponential_sigmas"])
def test_euler_is_diffusers_euler(kind: str, zero: bool, spacing: str, steps: int, offset: int, sigmas: str) -> None:
    settings = {"prediction_type": kind, "rescale_betas_zero_snr": zero, "timestep_spacing": spacing}
    settings |= {"steps_offset": offset} | ({sigmas: True} if sigmas else {})
    model = with_scheduler(EulerDiscreteScheduler(**SD, **settings), kind)
    path = list(sampling.euler(model, net, noise(), NOTHING, steps))
    scheduler: Any = EulerDiscreteScheduler(**SD, **settings)
    wanted = reference(scheduler, steps)
    linear(path)
    rounding = 2.5e-7 * float(scheduler.sigmas[0])  # its float32 state is that large
    for step, state, sigma in zip(path, wanted, scheduler.sigmas[1:], strict=True):
        torch.testing.assert_close(step.next * (sigma**2 + 1) ** 0.5, state, rtol=1e-5, atol=1e-5 + rounding)
    torch.testing.assert_close(path[-1].clean, path[-1].next)


@pytest.mark.parametrize("steps", [1, 2, 28])
@pytest.mark.parametrize("settings", [{}, {"shift": 3.0}, {"shift": 3.0, "use_karras_sigmas": True}])
def test_flow_euler_is_diffusers_flow_euler(steps: int, settings: dict[str, Any]) -> None:
    model = with_scheduler(FlowMatchEulerDiscreteScheduler(**settings), "flow")
    path = list(sampling.flow_euler(model, net, noise(), NOTHING, steps))
    wanted = reference(FlowMatchEulerDiscreteScheduler(**settings), steps)
    linear(path)
    for step, state in zip(path, wanted, strict=True):
        torch.testing.assert_close(step.next, state, **CLOSE)


def test_stochastic_flow_is_diffusers(folder: Path) -> None:
    settings = {"shift": 3.0, "stochastic_sampling": True}
    model = with_scheduler(FlowMatchEulerDiscreteScheduler(**settings), "flow")
    path = list(sampling.flow_euler(model, net, noise(), NOTHING, 6, seeds()))
    for step, state in zip(path, reference(FlowMatchEulerDiscreteScheduler(**settings), 6, seeds()), strict=True):
        torch.testing.assert_close(step.next, state, **CLOSE)


def test_a_perfect_network_is_inverted() -> None:
    """With the true noise as answer, the clean estimate is the picture at every step, and so is the end."""
    toy, clean = Toy(), noise() * 0.5
    n = toy.noise(clean, t=torch.tensor([999, 999]), eps=noise())

    def perfect(x: torch.Tensor, t: torch.Tensor, cond: Cond) -> torch.Tensor:
        a = toy.alphas_cumprod[t.long()].view(-1, 1, 1, 1)
        return (x - a.sqrt() * clean) / (1 - a).sqrt()

    path = list(sampling.ddim(toy, perfect, n.x, NOTHING, 1000))
    assert path[0].t.tolist() == [999, 999]
    for step in path[::100]:
        torch.testing.assert_close(step.clean, clean, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(path[-1].next, clean, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("setting", ["clip_sample", "thresholding"])
def test_schedules_that_cut_off_are_refused(setting: str) -> None:
    model = with_scheduler(DDIMScheduler(**SD | {"clip_sample": False, setting: True}), "epsilon")
    with pytest.raises(ModelError, match=setting):
        next(sampling.ddim(model, net, noise(), NOTHING, 5))


def test_epsilon_at_zero_snr_is_refused() -> None:
    settings = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
    model = with_scheduler(DDIMScheduler(**SD, **settings), "epsilon")
    with pytest.raises(ModelError, match="zero terminal SNR"):
        next(sampling.ddim(model, net, noise(), NOTHING, 5))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match="1 to 1000"):
        next(sampling.ddim(Toy(), net, noise(), NOTHING, steps))


@pytest.mark.parametrize("kind", [PNDMScheduler, EulerDiscreteScheduler])
def test_other_schedulers_never_clip(kind: Any) -> None:
    """PNDM, Euler and others know no clip_sample; DDIM's own default of it would spoil the colours."""
    model = with_scheduler(kind(**SD), "epsilon")
    path = list(sampling.ddim(model, net, noise() * 3, NOTHING, 5))
    assert path[-1].next.abs().max() > 1


def test_sampler_names(folder: Path) -> None:
    flow = with_scheduler(FlowMatchEulerDiscreteScheduler(), "flow")
    assert sampling.by_name(Toy()) is sampling.ddim
    assert sampling.by_name(with_scheduler(EulerDiscreteScheduler(**SD), "epsilon")) is sampling.euler
    assert sampling.by_name(with_scheduler(DDPMScheduler(**SD), "epsilon"), "euler") is sampling.euler
    assert sampling.by_name(flow) is sampling.by_name(flow, "euler") is sampling.flow_euler
    with pytest.raises(UsageError, match="sampler 'ddim'"):
        sampling.by_name(flow, "ddim")


@pytest.mark.parametrize("name", BACKBONES)
def test_a_picture_does_not_depend_on_its_batch(name: str, folder: Path) -> None:
    model = backbone(name, folder)
    prompts, numbers = ["a cat", "the dog", "a red house"], [5, 6, 5]
    settings: dict[str, Any] = {"steps": 4, "guidance_scale": 3.0}
    together = list(sampling.sample(model, prompts, numbers, batch=2, **settings))
    for prompt, number, picture in zip(prompts, numbers, together, strict=True):
        (alone,) = sampling.sample(model, [prompt], [number], **settings)
        torch.testing.assert_close(alone, picture, rtol=0, atol=1e-3)
        assert picture.shape == (3, model.pixels, model.pixels)
        assert 0 <= picture.min() < picture.max() <= 1


@pytest.mark.parametrize("name", [*FOLDERS, "embedded"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_picture_is_the_stock_pipelines(name: str, scale: float, folder: Path) -> None:
    model: Any = backbone(name, folder)
    pipe, generator = model.pipeline(), torch.Generator().manual_seed(11)
    settings = {"guidance_scale": scale, "output_type": "pt"}
    wanted = pipe("a red cat", generator=generator, num_inference_steps=5, **settings).images[0]
    (made,) = sampling.sample(model, ["a red cat"], [11], steps=5, guidance_scale=scale)
    torch.testing.assert_close(made, wanted, rtol=0, atol=2 / 255)
    assert made.std() > 0.01


def test_euler_picture_is_the_stock_pipelines(folder: Path) -> None:
    model: Any = backbone("tiny-sd-eps", folder)
    model.scheduler = EulerDiscreteScheduler.from_config(model.scheduler.config)
    pipe, generator = model.pipeline(), torch.Generator().manual_seed(11)
    wanted = pipe("a cat", generator=generator, num_inference_steps=5, output_type="pt").images[0]
    (made,) = sampling.sample(model, ["a cat"], [11], steps=5, guidance_scale=7.5)
    torch.testing.assert_close(made, wanted, rtol=0, atol=2 / 255)


def test_resolution_dependent_shift_is_the_stock_pipelines(folder: Path) -> None:
    model: Any = backbone("tiny-sd3", folder)
    model.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe, generator = model.pipeline(), torch.Generator().manual_seed(11)
    wanted = pipe("a cat", generator=generator, num_inference_steps=4, output_type="pt").images[0]
    (made,) = sampling.sample(model, ["a cat"], [11], steps=4, guidance_scale=7.0)
    torch.testing.assert_close(made, wanted, rtol=0, atol=2 / 255)


def test_sampling_leaves_gradients_and_modes_alone() -> None:
    toy = Toy()
    toy.net.train()
    toy.net.ff.eval()
    for _ in sampling.sample(toy, ["a", "b"], [0, 1], steps=2, batch=1):
        assert torch.is_grad_enabled()
        assert toy.net.training
        assert not toy.net.ff.training


def test_gradients_flow_through_a_trajectory() -> None:
    toy = Toy()
    weight = toy.net.attn2.to_v.weight.requires_grad_()
    *_, last = sampling.ddim(toy, toy.predict, noise(), toy.embed(["a", "b"]), 3)
    last.clean.square().mean().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()
    assert weight.grad.abs().sum() > 0


def test_initial_noise_is_the_seeds(folder: Path) -> None:
    model: Backbone = Toy()
    both = sampling.initial(model, [3, 4])
    assert torch.equal(both[1:], sampling.initial(model, [4]))
    assert sampling.initial(model, [3], 16, 8).shape == (1, 2, 8, 4)
    with pytest.raises(UsageError, match="one seed per prompt"):
        next(sampling.sample(model, ["a"], [1, 2]))
    with pytest.raises(UsageError, match="divisible"):
        next(sampling.sample(model, ["a"], [1], height=9))
