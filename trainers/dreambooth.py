"""DreamBooth: learn a subject from a few pictures, with pictures of its class to keep the class.

Ruiz et al. 2022, arXiv 2208.12242. L = L_instance + prior.weight * L_class, each the mean over its samples of
w_i |prediction - target|^2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Adapter, Backbone, Batch, Cond, Noisy, Prediction, Stream
from studio.pipelines.settings import Part
from studio.trainers.base import Loss, Settings


class Prior(Part):
    """Prior preservation: what the class looks like besides the subject."""

    weight: Annotated[float, Field(ge=0, description="Weight of the class pictures' loss; 0: none are used")] = 0.0
    folder: Annotated[Path | None, Field(description="Class pictures; empty: the base model makes them")] = None
    images: Annotated[int, Field(ge=1, description="Class pictures the base model makes")] = 50
    prompt: Annotated[str, Field(description="Their prompt")] = "a photo of {class_word}"


class Config(Settings):
    """DreamBooth's own settings."""

    prior: Annotated[Prior, Field(description="Pictures of the class")] = Prior()
    snr_gamma: Annotated[float | None, Field(gt=0, description="Min-SNR gamma (5 is usual); empty: off")] = None
    noise_offset: Annotated[float, Field(ge=0, le=1, description="Noise shared by a whole channel")] = 0.0


def losses(config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """One loss per batch; UsageError for Min-SNR with a flow-matching model."""
    refuse_snr_for_flow(config.snr_gamma, model.prediction)
    for batch in data:
        noisy = noised(model, batch, config.noise_offset)
        prediction = model.predict(noisy.x, noisy.t, embed(model, adapter, batch.prompts))
        errors = per_sample(prediction, noisy.target, batch.masks)
        weights = batch.weights * noisy.weight * min_snr(noisy, config.snr_gamma, model.prediction)
        yield combine(errors * weights, batch, config.prior.weight)


def noised(model: Backbone, batch: Batch, offset: float) -> Noisy:
    """Instance rows noised, then class rows: what an instance row gets does not depend on class rows."""
    halves = batch.latents.split(halves_of(batch))
    parts = [model.noise(half, batch.generator, offset=offset) for half in halves if len(half)]
    return Noisy(*(torch.cat([getattr(part, one.name) for part in parts]) for one in fields(Noisy)))


def halves_of(batch: Batch) -> list[int]:
    """How many instance rows and how many class rows the batch has, in this order."""
    classes = int(batch.prior.sum())
    return [len(batch.prior) - classes, classes]


def embed(model: Backbone, adapter: Adapter, prompts: list[str]) -> Cond:
    """Text embeddings, with a graph only where a text encoder learns."""
    if not getattr(adapter, "trains_text", False):
        with torch.no_grad():
            return model.embed(prompts)
    once = list(dict.fromkeys(prompts))  # pictures of one subject mostly have one caption
    return model.embed(once)[[once.index(prompt) for prompt in prompts]]


def per_sample(prediction: Tensor, target: Tensor, masks: Tensor | None) -> Tensor:
    """Mean squared error of each sample, float32 `[B]`; with masks `[B, 1, H, W]`, the mean over the mask."""
    # float32: half precision would lose the squares of small errors
    squares = (prediction.float() - target.float()).square()
    if masks is None:
        return squares.flatten(1).mean(1)
    masks = masks.to(squares).expand_as(squares)
    return (squares * masks).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp(min=1.0)


def min_snr(noisy: Noisy, gamma: float | None, prediction: Prediction) -> Tensor:
    """Min-SNR weights `[B]`: min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v. arXiv 2303.09556.

    At SNR = 0 (the last step of a zero-terminal-SNR schedule) epsilon's weight is its limit, 1.
    """
    if gamma is None:
        return torch.ones_like(noisy.snr)
    capped = noisy.snr.clamp(max=gamma)
    if prediction == "v_prediction":
        return capped / (noisy.snr + 1)
    return torch.where(noisy.snr > 0, capped / noisy.snr, 1.0)


def refuse_snr_for_flow(gamma: float | None, prediction: Prediction) -> None:
    """UsageError when Min-SNR is asked of a flow-matching model."""
    if gamma is not None and prediction == "flow":
        raise UsageError(
            "snr_gamma: Min-SNR is defined for epsilon and v-prediction; this model matches flows, whose "
            "timestep density already weighs them: leave snr_gamma empty"
        )


def combine(weighted: Tensor, batch: Batch, prior_weight: float) -> Loss:
    """L_instance + prior_weight * L_class from weighted errors `[B]`, each the mean of its half."""
    ours, classes = weighted.split(halves_of(batch))
    instance = ours.mean()
    if not len(classes):
        return Loss(instance, {"instance": instance})
    prior = classes.mean()
    return Loss(instance + prior_weight * prior, {"instance": instance, "prior": prior})
