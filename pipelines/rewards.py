"""Rewards: a weighted mixture of scorers, Python callables and remote judges, one number for each picture.

A term is written as in `rewards_terms`. A number of which less is better (`about.better` is "lower") always counts
with a minus: the weights 2 and -2 are then the same wish, one that says "good" and one that says "less".
With `standardise` each term is measured in its own standard deviations from its own mean over the run so far, before
its weight: the ranges of published rewards differ a hundredfold. Those two numbers per term are kept in `memory`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.pipelines import rewards_blame, rewards_find, rewards_python, rewards_remote, rewards_running
from studio.pipelines.confine import trusts_code
from studio.pipelines.encoders.base import Encoder
from studio.pipelines.errors import DataError, ModelError, UsageError
from studio.pipelines.protocols import Scorer
from studio.pipelines.rewards_scored import Scored
from studio.pipelines.rewards_settings import Rewards
from studio.pipelines.rewards_terms import Term, parse, spelled

__all__ = ["Reward", "Rewards", "Scored", "build"]

RANGE = 1e-3  # by how much a value may lie outside of 0..1
INSTEAD = {
    "jpeg-size": "jpeg-soft-bits",
    "embedded-attributes": "embedded-stated",
    "vendi": "diversity",
}


@dataclass(frozen=True)
class Weighted:
    """A term with what scores it. weight: with the sign that makes larger better."""

    term: Term
    scorer: Scorer
    weight: float

    def __call__(
        self, images: Tensor, prompts: list[str], references: Sequence[Tensor] | None, alive: Tensor
    ) -> Tensor:
        """`[B]` float32, NaN where a picture is not `alive`; such pictures are not shown to the scorer."""
        needs = self.scorer.about.needs
        given = references if "references" in needs or "masks" in needs else None
        rows = alive.nonzero().flatten()
        if not len(rows):
            return torch.full((len(images),), torch.nan, device=images.device)
        whole = len(rows) == len(images)
        shown = images if whole else images[rows]
        found = self.scorer(shown, [prompts[row] for row in rows.tolist()], given).to(images.device, torch.float32)
        if found.shape != (len(rows),):
            raise UsageError(f"reward term '{self.term.said}': {tuple(found.shape)} numbers for {len(rows)} pictures")
        return found if whole else found.new_full((len(images),), torch.nan).index_copy(0, rows, found)


class Reward:
    """(pictures, prompts, references) -> `Scored`. Made by `build`.

    differentiable: rewards have a graph where the pictures have one; names: of the terms; needs: what must be given
    beside the pictures: prompts, references, masks.
    """

    def __init__(self, config: Rewards, terms: Sequence[Weighted], differentiable: bool) -> None:
        self.config, self.terms, self.differentiable = config, tuple(terms), differentiable
        self.names = tuple(one.term.label for one in terms)
        self.needs = frozenset(need for one in terms for need in one.scorer.about.needs)
        self.known = set[str]()

    def __call__(
        self,
        images: Tensor,
        prompts: Sequence[str],
        references: Sequence[Tensor] | None = None,
        memory: dict[str, Any] | None = None,
        update: bool = True,
    ) -> Scored:
        """The rewards of pictures `[B, 3, H, W]` in 0..1 and their B prompts.

        memory: where the running means and deviations are; this batch is taken in first, unless `update` is False.
        Without it no term is standardised. Raises DataError for pictures out of range and for what a term lacks,
        ModelError for weights that are not there and for a judge that never answers.
        """
        checked(images, prompts)
        self.compared(references)
        alive = images.detach().flatten(1).isfinite().all(1)
        shown = images.float() if self.differentiable else images.detach().float()
        graph = torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled())
        # the training's half precision is not the judges': the same picture has the same number everywhere
        with graph, torch.autocast(images.device.type, enabled=False):
            watch = rewards_blame.Watch()
            found = {
                one.term.label: one(watch(one.term.label, shown), list(prompts), references, alive)
                for one in self.terms
            }
            watch.good = good = torch.stack([values.detach().isfinite() for values in found.values()]).all(0)
            total, units = self.mixed(found, memory, update)
            value = torch.where(good, total, torch.nan)
        raw = {name: values.detach() for name, values in found.items()}
        return Scored(value, raw, good, self.warnings(prompts), units)

    def compared(self, references: Sequence[Tensor] | None) -> None:
        """Raises DataError where a term compares with pictures of the subject, and there are none."""
        if missing := next((one for one in self.terms if lacks(one, references)), None):
            raise DataError(
                f"reward term '{missing.term.said}' compares with pictures of the subject, and there are none: give a "
                "folder with some as data, or take the term out of reward.terms"
            )

    def expected(self) -> None:
        """Raises ModelError where a term's encoder is not on this machine and the hub does not answer."""
        for one in self.terms:
            encoder = getattr(one.scorer, "encoder", None)
            if isinstance(encoder, Encoder) and "loaded" not in vars(encoder):
                try:
                    encoder.expected()
                except ModelError as error:
                    raise ModelError(f"reward term '{one.term.said}': {error}") from None

    def mixed(
        self, found: Mapping[str, Tensor], memory: dict[str, Any] | None, update: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum `[B]`, or minus its distance from the target; `Scored.units`."""
        states = memory.setdefault("reward", {}) if memory is not None and self.config.standardised else None
        total, units = torch.zeros_like(next(iter(found.values()))), dict[str, float]()
        for one in self.terms:
            values = found[one.term.label]
            if states is not None:
                state = states.setdefault(one.term.label, {})
                if update:
                    rewards_running.update(state, values)
                mean, deviation = rewards_running.scale(state)
                values = (values - mean) / deviation
                units[one.term.label] = one.weight / deviation
            total = total + one.weight * values
        return (total if self.config.target is None else -(total - self.config.target).abs()), units

    def warnings(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """What remote judges have to say, and of each prompt once that it is longer than a term's encoder reads."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]
        self.known.update(new)
        judges = [one.scorer for one in self.terms if isinstance(one.scorer, rewards_remote.Judge)]
        readers = [read for one in self.terms if (read := getattr(one.scorer, "cut", None)) is not None]
        return (*(text for judge in judges for text in judge.told()), *(text for read in readers for text in read(new)))


def build(config: Rewards, device: torch.device, dtype: torch.dtype, differentiable: bool = False) -> Reward:
    """The reward of a config; no weights are read yet. differentiable: gradients must flow back into the pictures.

    Raises UsageError for names and settings that do not exist, and for terms that cannot be a reward, or no such one.
    """
    if not config.terms:
        raise UsageError(
            "reward.terms is empty: name what is wished for, e.g. hps or 0.5*aesthetic (`studio list scorers`)"
        )
    found = [weighted(parse(text), config, device, dtype) for text in config.terms]
    for one in found if differentiable else ():
        if not one.scorer.differentiable:
            raise UsageError(
                f"reward term '{one.term.said}' has no gradient, which this trainer follows: {advice(one)}"
            )
    return Reward(config, found, differentiable)


def weighted(term: Term, config: Rewards, device: torch.device, dtype: torch.dtype) -> Weighted:
    """A term with its scorer. Raises UsageError."""
    scorer: Scorer
    if term.kind != "scorer" and not trusts_code():
        raise UsageError(
            f"reward term '{term.said}': here, where strangers say what runs (STUDIO_ROOTS), no term imports code or "
            "sends pictures away: use a scorer, or set STUDIO_CODE=1 where you trust them"
        )
    if term.kind == "python":
        scorer = rewards_python.Callable(term)
    elif term.kind == "remote":
        scorer = rewards_remote.Judge(term, config.timeout, config.retries)
    else:
        scorer = rewards_find.find(term, device, dtype)
    if scorer.about.per == "set":
        raise UsageError(
            f"reward term '{term.said}' is one number of a whole set of pictures and cannot reward a picture"
        )
    return Weighted(term, scorer, -abs(term.weight) if scorer.about.better == "lower" else term.weight)


def advice(one: Weighted) -> str:
    """What to use in the place of a term without a gradient."""
    if one.term.kind == "python":
        return f"if it is made of torch functions only, set {one.term.name.partition(':')[2]}.differentiable = True"
    others = "or a trainer that needs none (ddpo, or rlcm without pathwise)"
    name = INSTEAD.get(spelled(one.scorer.about.name))
    return f"use {name}, {others}" if name else f"use another term, {others}"


def lacks(one: Weighted, references: Sequence[Tensor] | None) -> bool:
    """Whether a term compares with references that are not there."""
    needs = one.scorer.about.needs
    return ("references" in needs or "masks" in needs) and not len(references if references is not None else ())


def checked(images: Tensor, prompts: Sequence[str]) -> None:
    """Raises DataError unless these are B pictures `[B, 3, H, W]` in 0..1 with a prompt each."""
    if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise DataError(
            f"a reward is of pictures [B, 3, H, W] of floating-point numbers, not {list(images.shape)} {images.dtype}"
        )
    if len(prompts) != len(images):
        raise DataError(f"a reward needs one prompt per picture: {len(prompts)} prompts for {len(images)} pictures")
    if isinstance(prompts, str) or not len(images):
        raise DataError("a reward needs at least one picture, and its prompts as a list")
    values = images.detach()
    values = values[values.isfinite()]
    if len(values) and not (values.amin() >= -RANGE and values.amax() <= 1 + RANGE):
        raise DataError(
            f"a reward is of pictures in 0..1, these reach from {values.amin():.3g} to {values.amax():.3g}: "
            "map decoded pictures to 0..1 once, and clamp them"
        )
