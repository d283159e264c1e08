"""Pictures by any sampler: `sample`. The samplers are generators of `Step`, equal to diffusers' schedulers.

Every sampler keeps its state as what the network sees, so `Step.x` can be given to `predict` as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from studio.pipelines.errors import UsageError
from studio.pipelines.guidance import cfg
from studio.pipelines.guidance_hearing import hearing, hears
from studio.pipelines.protocols import Backbone, Guidance
from studio.pipelines.sampling_kinds import by_name, dance, ddim, euler, flow_euler, lcm, pcm, sde, tcd
from studio.pipelines.sampling_steps import Generators, advance, evaluating, normal, step, walk
from studio.pipelines.schedules_named import FEW, named, schedule

__all__ = [
    "FEW", "Generators", "advance", "by_name", "dance", "ddim", "euler", "evaluating", "flow_euler", "initial", "lcm",
    "named", "normal", "pcm", "sample", "schedule", "sde", "seeded", "start", "step", "tcd", "walk",
]  # fmt: skip


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
    guidance_scale: float | None = None,
    height: int = 0,
    width: int = 0,
    negative: str = "",
    batch: int = 8,
    sampler: str = "auto",
    guidance: Guidance | None = None,
) -> Iterator[Tensor]:
    """Pictures `[3, H, W]` in 0..1, one per prompt and seed, in order; each is what its seed gives alone.

    height, width: pixels, 0 for the model's own. guidance_scale: None is 5, and 1 for the samplers of distilled models.
    A network that hears the scale is told it, without classifier-free guidance, which `guidance` replaces. Raises
    UsageError.
    """
    if len(prompts) != len(seeds):
        raise UsageError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed per prompt")
    walker, heard = by_name(model, sampler), hears(model)
    if guidance_scale is None:
        guidance_scale = 1.0 if named(model, sampler) in FEW and not heard else 5.0
    listen = hearing(model, guidance_scale)
    for first in range(0, len(prompts), batch):
        rows = slice(first, first + batch)
        with torch.no_grad(), evaluating(model):
            guide = guidance or cfg(1.0 if heard else guidance_scale, model.embed([negative]))
            cond, generators = model.embed(prompts[rows]), seeded(seeds[rows])
            x = start(model, generators, height, width)
            for step in walker(model, guide(listen(model.predict)), x, cond, steps, generators=generators):
                x = step.next
            pictures = model.decode(x).div(2).add(0.5).clamp(0, 1)
        yield from pictures
