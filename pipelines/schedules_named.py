"""The samplers' names, and the schedule of each as numbers."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import EulerDiscreteScheduler, LCMScheduler, TCDScheduler

from studio.pipelines import schedules, schedules_few, schedules_flow
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone

LATENT = ("ddim", "euler", "lcm", "tcd", "pcm")
FLOW = ("euler", "lcm", "sde", "dance")
FEW = ("lcm", "tcd", "pcm")  # for distilled models, which have the guidance inside


def named(model: Backbone, name: str = "auto") -> str:
    """The sampler's name; "auto" is what the model came with, else DDIM. Raises UsageError as `by_name`."""
    flow = model.prediction == "flow"
    known = FLOW if flow else LATENT
    if name == "auto":
        own = {EulerDiscreteScheduler: "euler", LCMScheduler: "lcm", TCDScheduler: "tcd"}
        name = next((found for kind, found in own.items() if isinstance(model.scheduler, kind)), "ddim")
        name = "euler" if flow else name
    if name not in known:
        raise UsageError(f"sampler '{name}': this model's are auto, {', '.join(known)}")
    return name


def schedule(
    model: Backbone,
    name: str,
    steps: int,
    *,
    eta: float = 0.0,
    shape: Sequence[int] | None = None,
    timesteps: Sequence[float] | None = None,
    level: float | None = None,
    gamma: float = 0.3,
) -> schedules.Schedule:
    """What unit noise is multiplied by at the start, and the coefficients of each step of a named sampler.

    Each sampler reads its own numbers: eta, ddim; gamma, tcd; level, sde (None: 0.7) and dance (None: 0.3); shape, of
    the latents (None: the model's), where a flow's shift depends on it. timesteps: falling, one per step, instead of
    the sampler's choice; a flow's are 1000 sigma, taken as they are. Raises UsageError and ModelError.
    """
    name, flow = named(model, name), model.prediction == "flow"
    if flow:
        shape = model.latent_shape(model.pixels, model.pixels) if shape is None else shape
        if name in ("sde", "dance"):
            constant = name == "dance"
            level = (0.3 if constant else 0.7) if level is None else level
            return schedules_flow.flow_sde(model, steps, shape, level, constant, timesteps)
        make = schedules_flow.flow_lcm if name == "lcm" else schedules_flow.flow_euler
        return make(model, steps, shape, timesteps)
    if name == "ddim":
        return schedules.ddim(model, steps, eta, timesteps)
    if name == "lcm":
        return schedules_few.lcm(model, steps, timesteps)
    if name == "tcd":
        return schedules_few.tcd(model, steps, gamma, timesteps)
    if timesteps is not None:
        raise UsageError(f"sampler '{name}' chooses its timesteps itself; use ddim for others")
    return schedules_few.pcm(model, steps) if name == "pcm" else schedules.euler(model, steps)
