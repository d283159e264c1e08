"""Every sampler as a generator of `Step`: DDIM, Euler's method, those of distilled models and stochastic flows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from studio.pipelines import schedules, schedules_flow
from studio.pipelines.protocols import Backbone, Cond, Predict, Step
from studio.pipelines.sampling_steps import Generators, walk
from studio.pipelines.schedules_named import named, schedule


def ddim(
    model: Backbone,
    predict: Predict,
    x: Tensor,
    cond: Cond,
    steps: int,
    eta: float = 0.0,
    generators: Generators = None,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, equations 12 and 16) from unit noise x `[B, C, h, w]`; eta = 1 is DDPM.

    generators: one CPU generator per picture for the noise of eta > 0.
    Raises ModelError for schedules without a linear step, UsageError for an impossible number of steps.
    """
    yield from walk(schedules.ddim(model, steps, eta), predict, x, cond, generators)


def euler(
    model: Backbone, predict: Predict, x: Tensor, cond: Cond, steps: int, generators: Generators = None
) -> Iterator[Step]:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, no churn), from unit noise x.

    Karras, exponential and beta sigmas are taken from the model's own scheduler config. Raises as `ddim`.
    """
    yield from walk(schedules.euler(model, steps), predict, x, cond, generators)


def flow_euler(
    model: Backbone, predict: Predict, x: Tensor, cond: Cond, steps: int, generators: Generators = None
) -> Iterator[Step]:
    """Euler's method on the straight paths of flow matching (Esser et al. 2024), from unit noise x.

    A scheduler with stochastic_sampling noises the clean estimate anew at each step. Raises as `ddim`.
    """
    yield from walk(schedules_flow.flow_euler(model, steps, x.shape), predict, x, cond, generators)


def lcm(
    model: Backbone, predict: Predict, x: Tensor, cond: Cond, steps: int, generators: Generators = None
) -> Iterator[Step]:
    """Multistep consistency sampling (Luo et al. 2023), from unit noise x: for models distilled by `lcm`.

    Each step noises its clean estimate anew, the last does not. Raises as `ddim`, for more steps than the grid has too.
    """
    yield from walk(schedule(model, "lcm", steps, shape=x.shape), predict, x, cond, generators)


def tcd(
    model: Backbone, predict: Predict, x: Tensor, cond: Cond, steps: int, generators: Generators = None
) -> Iterator[Step]:
    """Trajectory consistency sampling (Zheng et al. 2024), gamma = 0.3, from unit noise x. Raises as `lcm`."""
    yield from walk(schedule(model, "tcd", steps), predict, x, cond, generators)


def pcm(
    model: Backbone, predict: Predict, x: Tensor, cond: Cond, steps: int, generators: Generators = None
) -> Iterator[Step]:
    """DDIM over the edges of `steps` phases (Wang et al. 2024), from unit noise x. Raises as `lcm`."""
    yield from walk(schedule(model, "pcm", steps), predict, x, cond, generators)


def sde(
    model: Backbone, predict: Predict, x: Tensor, cond: Cond, steps: int, generators: Generators = None
) -> Iterator[Step]:
    """Flow-GRPO's stochastic sampler with the flow's marginals, level 0.7, from unit noise x. Raises as `ddim`."""
    yield from walk(schedule(model, "sde", steps, shape=x.shape), predict, x, cond, generators)


def dance(
    model: Backbone, predict: Predict, x: Tensor, cond: Cond, steps: int, generators: Generators = None
) -> Iterator[Step]:
    """DanceGRPO's stochastic sampler with the flow's marginals, level 0.3, from unit noise x. Raises as `ddim`."""
    yield from walk(schedule(model, "dance", steps, shape=x.shape), predict, x, cond, generators)


Walker = Callable[..., Iterator[Step]]
LATENT: dict[str, Walker] = {"ddim": ddim, "euler": euler, "lcm": lcm, "tcd": tcd, "pcm": pcm}
FLOW: dict[str, Walker] = {"euler": flow_euler, "lcm": lcm, "sde": sde, "dance": dance}


def by_name(model: Backbone, name: str = "auto") -> Walker:
    """The sampler of a name, a generator of steps; "auto" is what the model came with, else DDIM.

    Raises UsageError for a name that is unknown or does not fit the model.
    """
    return (FLOW if model.prediction == "flow" else LATENT)[named(model, name)]
