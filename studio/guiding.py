"""Pictures with any guidance, by its settings: what the base model and the weak one are told is made here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from studio.pipelines import sampling
from studio.pipelines.conditioner import Edit, edited
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance import cfg
from studio.pipelines.guidance_hearing import hears
from studio.pipelines.guidance_kinds import combined, consistency, personalization, rl
from studio.pipelines.guidance_settings import Guiding
from studio.pipelines.guidance_strength import acting
from studio.pipelines.protocols import Backbone, Cond, Guidance

CFG = Guiding()
NONE = ("", "")  # no negative prompt


def build(
    how: Guiding,
    model: Backbone,
    scale: float,
    references: Sequence[str],
    edit: Edit | None = None,
    negative: tuple[str, str] = NONE,
) -> Guidance:
    """The guidance for one batch of pictures, with the model's adapter as it runs now.

    references: the base model's prompts, one per picture: without the words that only the adapter knows. negative: in
    the place of the empty prompt, and as the base model is told it. Raises UsageError where the adapter, or its
    absence, does not allow this kind.
    """
    adapter, change, (unwanted, by_base) = model.adapter, edit or (lambda cond: cond), negative

    def told(prompts: Sequence[str], strength: float = 1.0) -> Cond:
        with acting(adapter, strength):  # text encoders and tokens may have learned too
            return model.embed(prompts)

    if how.kind == "cfg":
        made: Guidance = cfg(scale, told([unwanted]), how.rescale)
    elif how.kind == "personalization":
        made = personalization(adapter, told([unwanted], how.omega), scale, how.omega, how.rescale)
    else:
        base, empty = (told([by_base], 0), change(told(references, 0))), told([unwanted])
        if how.kind == "consistency":
            made = consistency(adapter, base, scale, how.w_con, how.rescale)
        elif how.kind == "rl":
            made = rl(adapter, base, empty, scale, how.gain, how.rescale)
        else:
            horizon = model.scheduler.config.num_train_timesteps
            made = combined(adapter, base, empty, scale, how.window, how.late_scale, horizon, how.rescale)
    return edited(edit, made) if edit else made


def draw(
    model: Backbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    how: Guiding = CFG,
    references: Sequence[str] | None = None,
    edit: Edit | None = None,
    negative: tuple[str, str] = NONE,
    batch: int = 8,
    sampler: str = "auto",
) -> Iterator[Tensor]:
    """Pictures `[3, H, W]` in 0..1, as `sampling.sample` makes them, guided as `how` says.

    references: the prompts as the base model is told them; None: the same. edit: of the prompts' embeddings. negative:
    as `build` takes it. A network that hears the guidance scale is told it, and not guided once more.
    """
    scale = 1.0 if hears(model) else guidance_scale
    said = list(prompts if references is None else references)
    if len(said) != len(prompts):
        raise UsageError(f"{len(prompts)} prompts and {len(said)} for the base model: give one for each")
    for first in range(0, len(prompts), batch):
        rows = slice(first, first + batch)
        with torch.no_grad(), sampling.evaluating(model):
            guidance = build(how, model, scale, said[rows], edit, negative)
        options: dict[str, Any] = {"steps": steps, "batch": batch, "sampler": sampler, "guidance": guidance}
        yield from sampling.sample(model, prompts[rows], seeds[rows], guidance_scale=guidance_scale, **options)
