"""Which sampler steps a reward's gradient comes back through: drawn once for each chain, the same in all processes."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from studio.pipelines.errors import UsageError
from studio.pipelines.settings import Part

Mode = Literal["full", "last_k", "random_k", "subset", "refl"]
Mask = tuple[bool, ...]
DRAWN = ("k_dist", "k_mean", "k_std", "k_min", "k_max")
READS: dict[str, tuple[str, ...]] = {
    "full": ("detach_input",),
    "last_k": ("k", "copies", "detach_input", "base_prefix"),
    "random_k": (*DRAWN, "detach_input", "base_prefix"),
    "subset": ("every", "detach_input", "base_prefix"),
    "refl": (*DRAWN, "base_prefix"),
}
"""The settings that each mode reads."""


class Truncation(Part):
    """How far back a reward's gradient goes: K network calls of each chain learn, K in 1 to all of them."""

    mode: Annotated[
        Mode,
        Field(
            description="full; last_k: the last k steps (DRaFT-K); random_k: the last K, drawn for each chain "
            "(AlignProp); subset: every so many steps; refl: one step, K from the end, and the picture guessed there"
        ),
    ] = "random_k"
    k: Annotated[int, Field(ge=1, description="last_k: how many steps learn")] = 1
    k_dist: Annotated[
        Literal["uniform", "gaussian"], Field(description="random_k, refl: how K is drawn; the paper's is uniform")
    ] = "uniform"
    k_mean: Annotated[float, Field(description="gaussian: the middle of K; the published code's is 8")] = 8.0
    k_std: Annotated[float, Field(gt=0, description="gaussian: the deviation of K")] = 5.0
    k_min: Annotated[int, Field(ge=1, description="random_k, refl: the least K")] = 1
    k_max: Annotated[
        int | None, Field(ge=1, description="random_k, refl: the most; empty: all steps, for refl a quarter of them")
    ] = None
    every: Annotated[
        int, Field(ge=1, description="subset: each so-manieth step learns, from one on that is drawn (LongAlign: 10)")
    ] = 10
    detach_input: Annotated[
        bool, Field(description="No gradient through what the network is shown: no products of Jacobians (DRTune)")
    ] = False
    copies: Annotated[
        int, Field(ge=1, le=64, description="last_k with k = 1: the last step is learnt on so many noises (DRaFT-LV)")
    ] = 1
    base_prefix: Annotated[
        bool,
        Field(description="Steps before the first that learns are the starting model's; draw with combined guidance"),
    ] = False

    @model_validator(mode="after")
    def _sensible(self) -> Truncation:
        for name, field in type(self).model_fields.items():
            if name not in ("mode", *READS[self.mode]) and getattr(self, name) != field.default:
                modes = " or ".join(mode for mode, names in READS.items() if name in names)
                raise ValueError(f"{name} does nothing where mode is {self.mode}: set mode to {modes}, or leave it out")
        if self.k_max is not None and self.k_max < self.k_min:
            raise ValueError(f"k_max is {self.k_max}, less than k_min, {self.k_min}")
        if self.copies > 1 and self.k > 1:
            raise ValueError(f"copies of the last step need k = 1, not {self.k}")
        return self

    def misfit(self, steps: int) -> str:
        """What is wrong where a chain of so many steps has fewer than should learn; "" where nothing is."""
        asked = {"k": self.k, "k_min": self.k_min, "k_max": self.k_max or 1}
        for name, number in asked.items():
            if name in READS[self.mode] and number > steps:
                return f"truncation.{name}: {number} steps should learn, and the sampler has {steps}"
        return ""


def draw(settings: Truncation, steps: int, generator: torch.Generator) -> Mask:
    """Which of `steps` network calls learn, the noisiest first; at least one. UsageError where there are too few."""
    if wrong := settings.misfit(steps):
        raise UsageError(wrong)
    if settings.mode == "full":
        return (True,) * steps
    if settings.mode == "subset":
        every = min(settings.every, steps)
        first = int(torch.randint(every, (), generator=generator))
        return tuple(i % every == first for i in range(steps))
    k = settings.k if settings.mode == "last_k" else how_many(settings, steps, generator)
    alone = settings.mode == "refl"
    return tuple(i == steps - k if alone else i >= steps - k for i in range(steps))


def how_many(settings: Truncation, steps: int, generator: torch.Generator) -> int:
    """K, drawn from k_min to k_max; the normal distribution is that of whole numbers, cut off there."""
    most = settings.k_max or (max(settings.k_min, steps // 4) if settings.mode == "refl" else steps)
    choices = torch.arange(settings.k_min, most + 1, dtype=torch.float64)
    flat = settings.k_dist == "uniform"
    logs = torch.zeros_like(choices) if flat else -((choices - settings.k_mean) / settings.k_std).square() / 2
    return settings.k_min + int(torch.multinomial(logs.softmax(0), 1, generator=generator))


def one_of(learns: Mask, generator: torch.Generator) -> int:
    """A step that learns, each as likely as any other."""
    numbers = [number for number, does in enumerate(learns) if does]
    return numbers[int(torch.randint(len(numbers), (), generator=generator))]
