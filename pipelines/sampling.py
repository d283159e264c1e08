"""Samplers as generators of `Step`, equal to diffusers' DDIM, Euler and flow Euler; and `sample`.

Every sampler keeps its state as what the network sees, so `Step.x` can be given to `predict` as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import EulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from studio.pipelines import schedules
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance import cfg
from studio.pipelines.protocols import Backbone, Cond, Guidance, Predict, Step

Generators = Sequence[torch.Generator] | None


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
    yield from walk(schedules.flow_euler(model, steps, x.shape), predict, x, cond, generators)


def walk(
    schedule: schedules.Schedule, predict: Predict, x: Tensor, cond: Cond, generators: Generators
) -> Iterator[Step]:
    """Follow a schedule from unit noise x. Gradients flow unless the caller switches them off."""
    scale, steps = schedule
    x = x.float() * scale
    for k in steps:
        t = torch.full(x.shape[:1], k.t, device=x.device, dtype=torch.long if k.t == int(k.t) else torch.float32)
        out = predict(x, t, cond)
        mean = k.A * x + k.B * out
        after = mean + k.S * normal(x, generators) if k.S else mean
        yield Step(x, t, out, k.A, k.B, k.S, mean, after, k.C * x + k.D * out)
        x = after


def normal(like: Tensor, generators: Generators) -> Tensor:
    """Standard normal noise, drawn on the CPU, each picture from its own generator."""
    drawn = randn_tensor(tuple(like.shape), generator=list(generators) if generators is not None else None)
    return drawn.to(like.device)


def by_name(model: Backbone, name: str = "auto") -> Callable[..., Iterator[Step]]:
    """`ddim`, `euler` or `flow_euler`, by name; "auto" is what the model came with, else DDIM.

    Raises UsageError for a name that is unknown or does not fit the model.
    """
    flow = model.prediction == "flow"
    known: dict[str, Callable[..., Iterator[Step]]] = {"ddim": ddim, "euler": euler}
    known = {"euler": flow_euler} if flow else known
    if name == "auto":
        name = "euler" if flow or isinstance(model.scheduler, EulerDiscreteScheduler) else "ddim"
    if name not in known:
        raise UsageError(f"sampler '{name}': this model's are auto, {', '.join(known)}")
    return known[name]


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def initial(model: Backbone, seeds: Sequence[int], height: int = 0, width: int = 0) -> Tensor:
    """Unit noise `[B, C, h, w]`, each picture from its seed as stock pipelines do; 0: the model's size."""
    return start(model, seeded(seeds), height, width)


def start(model: Backbone, generators: Sequence[torch.Generator], height: int = 0, width: int = 0) -> Tensor:
    """As `initial`, from generators that go on to noise the steps."""
    shape = model.latent_shape(height or model.pixels, width or model.pixels)
    return randn_tensor((len(generators), *shape), generator=list(generators)).to(model.device)


def sample(
    model: Backbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 25,
    guidance_scale: float = 5.0,
    height: int = 0,
    width: int = 0,
    negative: str = "",
    batch: int = 8,
    sampler: str = "auto",
    guidance: Guidance | None = None,
) -> Iterator[Tensor]:
    """Pictures `[3, H, W]` in 0..1, one per prompt and seed, in order; each is what its seed gives alone.

    height, width: pixels, 0 for the model's own. guidance replaces classifier-free guidance. Raises
    UsageError.
    """
    if len(prompts) != len(seeds):
        raise UsageError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed per prompt")
    walker = by_name(model, sampler)
    for first in range(0, len(prompts), batch):
        rows = slice(first, first + batch)
        with torch.no_grad(), evaluating(model):
            guide = guidance or cfg(guidance_scale, model.embed([negative]))
            cond, generators = model.embed(prompts[rows]), seeded(seeds[rows])
            x = start(model, generators, height, width)
            for step in walker(model, guide(model.predict), x, cond, steps, generators=generators):
                x = step.next
            pictures = model.decode(x).div(2).add(0.5).clamp(0, 1)
        yield from pictures


@contextmanager
def evaluating(model: Backbone) -> Iterator[None]:
    """Dropout off inside; afterwards every module is in the mode it was in."""
    modules = [part for network in (model.net, *model.text_encoders.values()) for part in network.modules()]
    modes = [part.training for part in modules]
    try:
        for part in modules:
            part.training = False
        yield
    finally:
        for part, mode in zip(modules, modes, strict=True):
            part.training = mode
