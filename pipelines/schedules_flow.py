"""Flow matching's schedules as numbers: Euler's method, the clean estimate noised anew, and SDEs with its marginals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone
from studio.pipelines.schedules import Coefficients, Schedule, explicit, own_schedule, timesteps

Times = list[tuple[float, float, float]]  # of each step: the timestep, its sigma and the next one's


def levels(model: Backbone, steps: int, shape: Sequence[int], given: Sequence[float] | None = None) -> Times:
    """The steps' timesteps and sigmas, as the scheduler has them or, without a shift, at the timesteps given."""
    scheduler = own_schedule(model, type(model.scheduler))
    if given is not None:
        horizon = scheduler.config.num_train_timesteps
        sigmas = [*(t / horizon for t in explicit(given, steps, horizon)), 0.0]
        return list(zip(given, sigmas, sigmas[1:], strict=False))
    scheduler = timesteps(scheduler, steps, **dynamic_shift(model, shape))
    sigmas = scheduler.sigmas.double().tolist()
    return list(zip(scheduler.timesteps.tolist(), sigmas, sigmas[1:], strict=False))


def flow_euler(model: Backbone, steps: int, shape: Sequence[int], given: Sequence[float] | None = None) -> Schedule:
    """Flow Euler's coefficients; `shape`, of the latents, decides a resolution-dependent shift."""
    if model.scheduler.config.get("stochastic_sampling", False):
        return flow_lcm(model, steps, shape, given)
    times = levels(model, steps, shape, given)
    return 1.0, [Coefficients(t, 1.0, after - sigma, 0.0, 1.0, -sigma) for t, sigma, after in times]


def flow_lcm(model: Backbone, steps: int, shape: Sequence[int], given: Sequence[float] | None = None) -> Schedule:
    """The clean estimate noised anew to the next sigma; the last step adds no noise."""
    times = levels(model, steps, shape, given)
    return 1.0, [Coefficients(t, 1 - after, -(1 - after) * sigma, after, 1.0, -sigma) for t, sigma, after in times]


def flow_sde(
    model: Backbone,
    steps: int,
    shape: Sequence[int],
    level: float,
    constant: bool = False,
    given: Sequence[float] | None = None,
) -> Schedule:
    """Euler-Maruyama on the SDE with the flow's marginals; the last step is the deterministic one.

    Noise s sqrt(sigma - after), s = level sqrt(sigma / (1 - sigma)) (Flow-GRPO, Liu et al. 2025, where sigma = 1 counts
    as the next sigma), or `constant`: s = level (DanceGRPO, Xue et al. 2025). level 0 is Euler's method.
    Raises UsageError for a negative level.
    """
    if not level >= 0:
        raise UsageError(f"noise level {level:g}: give 0 (no noise) or more")
    found = []
    for t, sigma, after in levels(model, steps, shape, given):
        dt = after - sigma
        if after == 0:
            squared = 0.0
        else:  # at sigma = 1 Flow-GRPO's noise would be infinite
            squared = level**2 * (1.0 if constant else sigma / (1 - (after if 1 - sigma < 1e-6 else sigma)))
        drift = squared / (2 * sigma) * dt if squared else 0.0
        found.append(Coefficients(t, 1 + drift, dt + drift * (1 - sigma), math.sqrt(-squared * dt), 1.0, -sigma))
    return 1.0, found


def dynamic_shift(model: Backbone, shape: Sequence[int]) -> dict[str, float]:
    """The shift mu for latents of this shape as the stock pipeline has it, {} where the shift is fixed."""
    config, net = model.scheduler.config, cast(Any, model.net)
    if not config.get("use_dynamic_shifting"):
        return {}
    patches = math.prod(side // net.config.patch_size for side in shape[-2:])
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    # a second of imports that other families need not wait for
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    return {"mu": calculate_shift(patches, *(config[name] for name in names))}
