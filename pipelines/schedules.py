"""Noise schedules as numbers: what each sampler step multiplies, equal to diffusers' schedulers.

The state is what the network sees. diffusers' Euler keeps its state larger by sqrt(sigma^2 + 1); here that
factor is inside A and B, and it is 1 at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from diffusers import DDIMScheduler, EulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Backbone


@dataclass(frozen=True)
class Coefficients:
    """One step's numbers: next = A x + B out + S z, and the clean estimate C x + D out, at timestep t."""

    t: float
    A: float
    B: float
    S: float
    C: float
    D: float


Schedule = tuple[float, list[Coefficients]]  # what unit noise is multiplied by at the start, and the steps


def timesteps(scheduler: Any, steps: int, **shift: float) -> Any:
    """The scheduler with its timesteps set. Raises UsageError for an impossible number of steps."""
    if not 1 <= steps <= scheduler.config.num_train_timesteps:
        raise UsageError(f"{steps} sampler steps: give 1 to {scheduler.config.num_train_timesteps}")
    scheduler.set_timesteps(steps, **shift)
    return scheduler


def own_schedule(model: Backbone, kind: Any) -> Any:
    """A scheduler of `kind` with the model's schedule. Raises ModelError where a step would not be linear.

    clip_sample is False where the model's scheduler does not know it: latents must not be clipped.
    """
    config = model.scheduler.config
    for name in ("clip_sample", "thresholding"):
        if kind is DDIMScheduler and config.get(name):
            raise ModelError(
                f"scheduler: {name} = true cuts clean latents off, which gives wrong colours; "
                f"set it to false in scheduler/scheduler_config.json"
            )
    return kind.from_config(config, **({"clip_sample": False} if kind is DDIMScheduler else {}))


def ddim(model: Backbone, steps: int, eta: float = 0.0) -> Schedule:
    """DDIM's coefficients in float64, with the timesteps of diffusers' DDIMScheduler."""
    scheduler = timesteps(own_schedule(model, DDIMScheduler), steps)
    alphas, stride = scheduler.alphas_cumprod.double(), scheduler.config.num_train_timesteps // steps
    found = []
    for t in scheduler.timesteps.tolist():
        a = float(alphas[t])
        after = float(alphas[t - stride] if t >= stride else scheduler.final_alpha_cumprod)
        if a == 0 and model.prediction == "epsilon":
            raise ModelError("scheduler: epsilon says nothing at zero terminal SNR; use leading timestep_spacing")
        variance = eta**2 * (1 - after) / (1 - a) * (1 - a / after)
        (cx, co), (ex, eo) = clean_and_noise(model.prediction, a)
        keep, towards = after**0.5, max(0.0, 1 - after - variance) ** 0.5
        found.append(Coefficients(t, keep * cx + towards * ex, keep * co + towards * eo, variance**0.5, cx, co))
    return 1.0, found


def clean_and_noise(prediction: str, a: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Factors of x and of the network's output in the clean and in the noise estimate; a = alpha^2."""
    alpha, sigma = a**0.5, (1 - a) ** 0.5
    if prediction == "epsilon":
        return (1 / alpha, -sigma / alpha), (0.0, 1.0)
    return (alpha, -sigma), (sigma, alpha)


def euler(model: Backbone, steps: int) -> Schedule:
    """Euler's coefficients for a state divided by sqrt(sigma^2 + 1), with diffusers' timesteps and sigmas."""
    scheduler = timesteps(own_schedule(model, EulerDiscreteScheduler), steps)
    sigmas = scheduler.sigmas.double().tolist()
    found = []
    for t, sigma, after in zip(scheduler.timesteps.tolist(), sigmas, sigmas[1:], strict=False):
        norm, next_norm = (sigma**2 + 1) ** 0.5, (after**2 + 1) ** 0.5
        (cx, co), _ = clean_and_noise(model.prediction, 1 / norm**2)
        ratio = after / sigma
        found.append(
            Coefficients(t, (ratio * norm + (1 - ratio) * cx) / next_norm, (1 - ratio) * co / next_norm, 0.0, cx, co)
        )
    return float(scheduler.init_noise_sigma) / (sigmas[0] ** 2 + 1) ** 0.5, found


def flow_euler(model: Backbone, steps: int, shape: Sequence[int]) -> Schedule:
    """Flow Euler's coefficients; `shape`, of the latents, decides a resolution-dependent shift."""
    scheduler = timesteps(own_schedule(model, type(model.scheduler)), steps, **dynamic_shift(model, shape))
    sigmas, stochastic = (
        scheduler.sigmas.double().tolist(),
        scheduler.config.get("stochastic_sampling", False),
    )
    found = []
    for t, sigma, after in zip(scheduler.timesteps.tolist(), sigmas, sigmas[1:], strict=False):
        A, B, S = (1 - after, -(1 - after) * sigma, after) if stochastic else (1.0, after - sigma, 0.0)
        found.append(Coefficients(t, A, B, S, 1.0, -sigma))
    return 1.0, found


def dynamic_shift(model: Backbone, shape: Sequence[int]) -> dict[str, float]:
    """The shift mu for latents of this shape as the stock pipeline has it, {} where the shift is fixed."""
    config, net = model.scheduler.config, cast(Any, model.net)
    if not config.get("use_dynamic_shifting"):
        return {}
    patches = math.prod(side // net.config.patch_size for side in shape[-2:])
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    return {"mu": calculate_shift(patches, *(config[name] for name in names))}
