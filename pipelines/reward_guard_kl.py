"""How far an adapter's predictions are from those of what its run began with, along its own pictures' paths.

The mean over steps, pictures and elements of ||e - e'||^2. With each step weighted by its noise it would be the KL
divergence between the distributions of paths; without, it has one meaning for all samplers, those without noise too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from studio.pipelines import sampling
from studio.pipelines.guidance_hearing import hearing
from studio.pipelines.protocols import Backbone, Cond

STEPS, PICTURES = 6, 4
FIRST_SEED = 7_000_000  # no picture that is scored


def distance(
    model: Backbone,
    prompts: Sequence[str],
    reference: Callable[[], AbstractContextManager[None]],
    *,
    sampler: str = "auto",
    steps: int = STEPS,
    pictures: int = PICTURES,
) -> float:
    """The mean squared difference, 0 where the adapter has changed nothing. No guidance, fixed seeds.

    reference: a context in which the model is what the run began with, text encoders included; sampler: by name.
    """
    asked = [prompts[number * len(prompts) // pictures] for number in range(pictures)]
    generators = sampling.seeded([FIRST_SEED + number for number in range(pictures)])
    ask = hearing(model, 1.0)(model.predict)
    found: list[Tensor] = []
    with torch.no_grad(), sampling.evaluating(model):
        cond = model.embed(asked)
        with reference():
            theirs = model.embed(asked)

        def predict(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            mine = ask(x, t, cond)
            with reference():
                gap = mine.float() - ask(x, t, theirs).float()
            found.append(gap.square().mean())
            return mine

        start = sampling.start(model, generators)
        deque(sampling.by_name(model, sampler)(model, predict, start, cond, steps, generators=generators), maxlen=0)
    return float(torch.stack(found).mean())
