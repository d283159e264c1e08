"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.trainers.base import Settings

Groups = list[dict[str, Any]]
EXTRA = "pip install 'personalization-studio[optimizers]'"


def _adamw(groups: Groups, settings: Settings) -> Optimizer:
    """Adam with decoupled weight decay. Loshchilov & Hutter, arXiv 1711.05101."""
    devices = {p.device.type for group in groups for p in group["params"]}
    # one fused call, not a loop over hundreds of small tensors; but fp16's scaler must be able to skip it
    fused = devices <= {"cpu", "cuda"} and settings.precision != "fp16"
    return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def _adamw8bit(groups: Groups, settings: Settings) -> Optimizer:
    """AdamW with 8-bit state. Dettmers et al., arXiv 2110.02861."""
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, lr=settings.lr, weight_decay=settings.weight_decay)


def _prodigy(groups: Groups, settings: Settings) -> Optimizer:
    """Adam that finds its own step size. Mishchenko & Defazio, arXiv 2306.06101."""
    from prodigyopt import Prodigy

    if settings.lr < 0.1:
        warnings.warn(
            f"prodigy finds its own step size and lr only scales it: use lr = 1.0 (it is {settings.lr:g})",
            stacklevel=2,
        )
    return Prodigy(
        _one_rate(groups, "prodigy"),
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        decouple=True,
        use_bias_correction=True,
        safeguard_warmup=True,
    )


def _adafactor(groups: Groups, settings: Settings) -> Optimizer:
    """Adam with factored second moments. Shazeer & Stern, arXiv 1804.04235."""
    return torch.optim.Adafactor(groups, lr=settings.lr, weight_decay=settings.weight_decay)


def _schedulefree(groups: Groups, settings: Settings) -> Optimizer:
    """AdamW that averages instead of following a schedule. Defazio et al., arXiv 2405.15682."""
    from schedulefree import AdamWScheduleFree

    if settings.schedule != "constant":
        raise UsageError(f"schedule: schedulefree replaces the schedule; use 'constant', not {settings.schedule!r}")
    if settings.ema:
        raise UsageError("ema: schedulefree averages by itself; use ema = 0")
    return AdamWScheduleFree(groups, lr=settings.lr, weight_decay=settings.weight_decay, warmup_steps=settings.warmup)


def _sgd(groups: Groups, settings: Settings) -> Optimizer:
    """Gradient descent with momentum 0.9."""
    return torch.optim.SGD(groups, lr=settings.lr, weight_decay=settings.weight_decay, momentum=0.9)


OPTIMIZERS: dict[str, Callable[[Groups, Settings], Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "prodigy": _prodigy,
    "adafactor": _adafactor,
    "schedulefree": _schedulefree,
    "sgd": _sgd,
}
SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")


def build(name: str, groups: Groups, settings: Settings) -> Optimizer:
    """The named optimizer over parameter groups; UsageError for an unknown name or a missing package."""
    make = OPTIMIZERS[_known("optimizer", name, tuple(OPTIMIZERS))]
    try:
        return make(groups, settings)
    except ImportError as error:
        raise UsageError(f"optimizer {name!r} needs: {EXTRA} ({error.name or error} is missing)") from None


def schedule(optimizer: Optimizer, settings: Settings) -> LRScheduler:
    """The named learning-rate schedule, stepped once per optimizer step; UsageError for an unknown name."""
    from diffusers.optimization import get_scheduler

    name = _known("schedule", settings.schedule, SCHEDULES)
    # diffusers' plain "constant" would drop the warm-up in silence; schedule-free has its own
    if name == "constant" and settings.warmup and settings.optimizer != "schedulefree":
        name = "constant_with_warmup"
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=settings.warmup,
        num_training_steps=max(settings.steps, settings.warmup + 1),
    )


def _one_rate(groups: Groups, name: str) -> Groups:
    """`groups`, or a UsageError when they differ in learning rate, which this optimizer cannot do."""
    if len({group["lr"] for group in groups}) > 1:
        raise UsageError(f"adapter.text_encoder_lr: {name} knows only one learning rate; leave it at 0")
    return groups


def _known(setting: str, name: str, names: Sequence[str]) -> str:
    """`name` if it is one of `names`; otherwise a UsageError with the nearest."""
    if name in names:
        return name
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"{setting}: there is no {name!r}; {hint}known: {', '.join(names)}")
