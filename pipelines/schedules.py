"""Noise schedules as numbers: what each sampler step multiplies, equal to diffusers' schedulers.

The state is what the network sees. diffusers' Euler keeps its state larger by sqrt(sigma^2 + 1); here that
factor is inside A and B, and it is 1 at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler, TCDScheduler

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
LATENT = (DDIMScheduler, LCMScheduler, TCDScheduler)  # diffusers' kinds that would clip the clean estimate


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
        if kind in LATENT and config.get(name):
            raise ModelError(
                f"scheduler: {name} = true cuts clean latents off, which gives wrong colours; "
                f"set it to false in scheduler/scheduler_config.json"
            )
    return kind.from_config(config, **({"clip_sample": False} if kind in LATENT else {}))


def explicit(given: Sequence[float], steps: int, most: int) -> list[float]:
    """Timesteps given by hand. Raises UsageError unless there are `steps` of them, falling, in 0..most."""
    falling = all(first > second for first, second in zip(given, given[1:], strict=False))
    if len(given) != steps or not steps or not falling or given[-1] < 0 or given[0] > most:
        raise UsageError(f"timesteps {list(given)}: give {steps}, one per sampler step, falling, within 0 to {most}")
    return list(given)


def numbers(given: Sequence[float], steps: int, scheduler: Any) -> list[int]:
    """As `explicit`, for a noise schedule of whole numbers. Raises UsageError."""
    if any(t != int(t) for t in given):
        raise UsageError(f"timesteps {list(given)}: this model's are whole numbers")
    return [int(t) for t in explicit(given, steps, scheduler.config.num_train_timesteps - 1)]


def ddim(model: Backbone, steps: int, eta: float = 0.0, given: Sequence[float] | None = None) -> Schedule:
    """DDIM's coefficients in float64, with the timesteps of diffusers' DDIMScheduler or those given.

    Its steps are all equally long, and the last goes to the end; between given timesteps each goes to the next.
    """
    scheduler = own_schedule(model, DDIMScheduler)
    alphas, end = scheduler.alphas_cumprod.double(), float(scheduler.final_alpha_cumprod)
    if given is None:
        times = timesteps(scheduler, steps).timesteps.tolist()
        stride = scheduler.config.num_train_timesteps // steps
        afters = [float(alphas[t - stride]) if t >= stride else end for t in times]
    else:
        times = numbers(given, steps, scheduler)
        afters = [*(float(alphas[t]) for t in times[1:]), end]
    found = []
    for t, after in zip(times, afters, strict=True):
        a = informative(model, float(alphas[t]))
        variance = eta**2 * (1 - after) / (1 - a) * (1 - a / after)
        (cx, co), (ex, eo) = clean_and_noise(model.prediction, a)
        keep, towards = after**0.5, max(0.0, 1 - after - variance) ** 0.5
        found.append(Coefficients(t, keep * cx + towards * ex, keep * co + towards * eo, variance**0.5, cx, co))
    return 1.0, found


def informative(model: Backbone, a: float) -> float:
    """The level a = alpha^2 of a step. Raises ModelError where the model's output says nothing about the picture."""
    if a == 0 and model.prediction == "epsilon":
        raise ModelError("scheduler: epsilon says nothing at zero terminal SNR; use leading timestep_spacing")
    return a


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
