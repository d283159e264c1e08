"""Schedules of distilled models as numbers: multistep consistency (LCM), TCD and phased (PCM) sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import LCMScheduler, TCDScheduler

from studio.pipelines import schedules
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone
from studio.pipelines.schedules import Coefficients, Schedule, clean_and_noise, informative


def grid(scheduler: Any) -> list[int]:
    """The only timesteps that a distilled model knows, rising: 19, 39, ... 999 for 50 of 1000."""
    count = scheduler.config.original_inference_steps
    stride = scheduler.config.num_train_timesteps // count
    return [stride * (i + 1) - 1 for i in range(count)]


def chosen(scheduler: Any, steps: int, given: Sequence[float] | None) -> list[int]:
    """diffusers' choice of `steps` timesteps of the grid, or those given. Raises UsageError for more than it has."""
    if given is not None:
        return schedules.numbers(given, steps, scheduler)
    most = scheduler.config.original_inference_steps
    if not 1 <= steps <= most:
        raise UsageError(f"{steps} sampler steps: a few-step sampler's grid has {most}; give 1 to {most}")
    return schedules.timesteps(scheduler, steps).timesteps.tolist()


def scalings(t: float, scaling: float = 10.0, sigma_data: float = 0.5) -> tuple[float, float]:
    """c_skip and c_out of the consistency function f = c_skip x + c_out x0: 1 and 0 at t = 0 (Luo et al. 2023)."""
    square = (scaling * t) ** 2 + sigma_data**2
    return sigma_data**2 / square, scaling * t / square**0.5


def lcm(model: Backbone, steps: int, given: Sequence[float] | None = None) -> Schedule:
    """f noised anew to the next timestep, sqrt(a') f + sqrt(1 - a') z; the last step is f itself. Raises as `ddim`."""
    scheduler = schedules.own_schedule(model, LCMScheduler)
    times, alphas = chosen(scheduler, steps, given), scheduler.alphas_cumprod.double()
    found = []
    for t, after in zip(times, [*times[1:], None], strict=True):
        (cx, co), _ = clean_and_noise(model.prediction, informative(model, float(alphas[t])))
        skip, out = scalings(t, scheduler.config.timestep_scaling)
        a, C, D = 1.0 if after is None else float(alphas[after]), skip + out * cx, out * co
        found.append(Coefficients(t, a**0.5 * C, a**0.5 * D, (1 - a) ** 0.5, C, D))
    return 1.0, found


def tcd(model: Backbone, steps: int, gamma: float = 0.3, given: Sequence[float] | None = None) -> Schedule:
    """DDIM's jump to s = floor((1 - gamma) t'), then noised to t' (Zheng et al. 2024); no noise in the last step.

    gamma = 0 is DDIM over the same timesteps, gamma = 1 is multistep consistency sampling. Raises as `ddim`, and
    UsageError for gamma outside 0..1.
    """
    if not 0 <= gamma <= 1:
        raise UsageError(f"gamma {gamma:g}: give 0 (no noise) to 1 (the clean estimate noised anew)")
    scheduler = schedules.own_schedule(model, TCDScheduler)
    times, alphas = chosen(scheduler, steps, given), scheduler.alphas_cumprod.double()
    found = []
    for t, after in zip(times, [*times[1:], 0], strict=True):
        (cx, co), (ex, eo) = clean_and_noise(model.prediction, informative(model, float(alphas[t])))
        to = int(torch.floor((1 - gamma) * torch.tensor(after)))  # float32, as diffusers rounds
        s, a = float(alphas[to]), float(alphas[after])
        keep, towards, ratio = s**0.5, (1 - s) ** 0.5, (a / s) ** 0.5
        A, B = ratio * (keep * cx + towards * ex), ratio * (keep * co + towards * eo)
        found.append(Coefficients(t, A, B, (1 - a / s) ** 0.5, cx, co))
    return 1.0, found


def edges(timesteps: Sequence[int], phases: int) -> list[int]:
    """Lower ends of the phases of a rising grid, rising: 0, 239, 499, 739 for 4 phases of LCM's (Wang et al. 2024).

    Raises UsageError for more phases than timesteps.
    """
    if not 1 <= phases <= len(timesteps):
        raise UsageError(f"{phases} phases: give 1 to {len(timesteps)}, the timesteps of the grid")
    cuts = [i * len(timesteps) // phases for i in range(phases)]
    return [timesteps[cut - 1] if cut else 0 for cut in cuts]


def pcm(model: Backbone, phases: int) -> Schedule:
    """DDIM from each phase's upper end to its lower: as many steps as the model was distilled in. Raises as `ddim`."""
    times = grid(schedules.own_schedule(model, LCMScheduler))
    return schedules.ddim(model, phases, given=[times[-1], *reversed(edges(times, phases)[1:])])
