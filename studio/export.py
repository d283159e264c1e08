"""The proof that stock diffusers draws the same picture with an exported adapter."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils import logging
from PIL import Image

from studio import pictures
from studio.pipelines import attention, backbone, sampling, schedules
from studio.pipelines.adapters import files
from studio.pipelines.drawing import CALLS, SCHEDULERS
from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import Backbone
from studio.previews import Shot
from studio.trainers.base import Previews

NAME = files.NAME
# mean absolute difference of 8-bit pixel values; half precision rounds differently in another order of additions
TOLERANCE = {torch.float32: 1.0, torch.bfloat16: 4.0, torch.float16: 2.0}


@dataclass(frozen=True)
class Reload:
    """How far the reloaded file's picture is from the preview: mean absolute difference of 8-bit values."""

    difference: float
    tolerance: float
    by: str


def check(source: str, model: Backbone, file: Path, shot: Shot, previews: Previews, expected: Image.Image) -> Reload:
    """Load the exported file into a fresh stock pipeline and compare its picture with the preview's.

    Raises ModelError when it differs by more than the tolerance of the model's precision.
    """
    fresh = backbone.load(source, model.device, model.dtype)
    made, by = redraw(fresh, file, shot, previews)
    difference = float(np.abs(np.asarray(made, np.float32) - np.asarray(expected, np.float32)).mean())
    tolerance = TOLERANCE[model.dtype]
    if difference > tolerance:
        raise ModelError(
            f"{file}: a fresh {by} draws another picture with it (mean difference {difference:.1f} of 255, "
            f"tolerance {tolerance:g}); the checkpoints hold the trained weights, please report this"
        )
    return Reload(difference, tolerance, by)


def stock(model: Backbone) -> bool:
    """Whether diffusers has a pipeline for a model."""
    try:
        return model.pipeline() is not None
    except ModelError:
        return False


def redraw(fresh: Backbone, file: Path, shot: Shot, previews: Previews) -> tuple[Image.Image, str]:
    """The shot's picture by a freshly loaded model with the file in it, and the name of what drew it."""
    try:
        pipe = fresh.pipeline()
    except ModelError:  # the toy has no stock pipeline: our own reader has to do
        files.load(fresh, file)
        attention.install(fresh.net, "auto")
        drawn = sampling.sample(fresh, [shot.prompt], [shot.seed], **vars(previews.drawing))
        return pictures.image(next(iter(drawn))), "model of ours"
    sampler = reschedule(pipe, fresh, previews.sampler)
    with ExitStack() as after:  # diffusers warns about every part of a pipeline that a LoRA file leaves alone
        after.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity_error()
        files.into_stock(pipe, fresh, file)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": previews.steps, "guidance_scale": previews.guidance_scale}
    seed = torch.Generator().manual_seed(shot.seed)
    picture = pipe(shot.prompt, generator=seed, **options, **CALLS.get(sampler, {})).images[0]
    named = "" if previews.sampler == "auto" else f" with {type(pipe.scheduler).__name__}"
    return picture, f"{type(pipe).__name__}{named}"


def reschedule(pipe: Any, fresh: Backbone, sampler: str) -> str:
    """diffusers' scheduler of a sampler into a stock pipeline; the sampler's name. "auto": the pipeline's own or DDIM.

    Raises UsageError for a sampler that is not the model's, KeyError for one that `previews.stock` takes away.
    """
    name = sampling.named(fresh, sampler)
    own = sampler == "auto" and name != "ddim"
    if fresh.prediction != "flow" and not own:
        pipe.scheduler = schedules.own_schedule(fresh, getattr(diffusers, SCHEDULERS[name]))
    return name
