"""A sampler's steps: one at a time, differentiable, or a walk along a whole schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone, Cond, Predict, Step
from studio.pipelines.schedules import Coefficients, Schedule

Generators = Sequence[torch.Generator] | None


def walk(schedule: Schedule, predict: Predict, x: Tensor, cond: Cond, generators: Generators) -> Iterator[Step]:
    """Follow a schedule from unit noise x. Gradients flow unless the caller switches them off."""
    scale, steps = schedule
    x = x.float() * scale
    for k in steps:
        t, out = asked(k, predict, x, cond)
        found = advance(k, x, t, out, normal(x, generators) if k.S else None)
        yield found
        x = found.next


def step(k: Coefficients, predict: Predict, x: Tensor, cond: Cond, noise: Tensor | None = None) -> Step:
    """One differentiable step from the state x, which is what the network sees, with the noise z of `advance`."""
    t, out = asked(k, predict, x, cond)
    return advance(k, x, t, out, noise)


def asked(k: Coefficients, predict: Predict, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """The step's timestep, `[B]`, and the network's output there."""
    t = torch.full(x.shape[:1], k.t, device=x.device, dtype=torch.long if k.t == int(k.t) else torch.float32)
    return t, predict(x, t, cond)


def advance(k: Coefficients, x: Tensor, t: Tensor, out: Tensor, noise: Tensor | None = None) -> Step:
    """The step that the output makes; noise: z `[B, C, h, w]`, which a step with S = 0 does not use.

    Raises UsageError where S > 0 and there is none.
    """
    if k.S and noise is None:
        raise UsageError(f"the step at timestep {k.t:g} adds noise (S = {k.S:g}): give it standard normal noise")
    mean = k.A * x + k.B * out
    after = mean + k.S * noise if k.S and noise is not None else mean
    return Step(x, t, out, k.A, k.B, k.S, mean, after, k.C * x + k.D * out)


def normal(like: Tensor, generators: Generators) -> Tensor:
    """Standard normal noise, drawn on the CPU, each picture from its own generator."""
    drawn = randn_tensor(tuple(like.shape), generator=list(generators) if generators is not None else None)
    return drawn.to(like.device)


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
