"""Who judges the pictures of the held-out prompts: not the trained reward and, where possible, not its encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.pipelines import rewards
from studio.pipelines.reward_guard_usual import build, sized, usual
from studio.pipelines.scorers import jpeg

DRIFT = "jpeg-drift"


@dataclass(frozen=True)
class Judges:
    """terms: the held-out ones, None where only the size of files is there; notes: what a person should know."""

    terms: rewards.Reward | None
    weights: dict[str, float]
    notes: tuple[str, ...] = ()

    def __call__(
        self, images: Tensor, prompts: Sequence[str], references: Sequence[Tensor] | None, start: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, tuple[str, ...]]:
        """`[N]` by judge in its published unit, the logarithms of the files' sizes, and warnings. start: their first
        ones, from which jpeg-drift is the distance.
        """
        sizes = jpeg.Size(95)(images).log().cpu()
        found: dict[str, Tensor] = {}
        told: tuple[str, ...] = ()
        if self.terms is not None:
            scored = self.terms(images, prompts, references)
            found, told = {name: row.float().cpu() for name, row in scored.raw.items()}, scored.warnings
        if DRIFT in self.weights:
            found[DRIFT] = (sizes - (sizes if start is None else start)).abs()
        return found, sizes, told


def judges(terms: Sequence[str], trained: Sequence[str], own_world: bool, device: torch.device) -> Judges:
    """Those that a person names, or else fitting ones. trained: labels of the reward's terms.

    own_world: the pictures are of the studio's own small world. Raises UsageError for terms that cannot be.
    """
    notes: tuple[str, ...] = ()
    if not terms:
        terms, notes = usual(trained, own_world, device)
    if not terms:
        return Judges(None, {} if sized(trained) else {DRIFT: -1.0}, notes)
    made = build(terms, device)
    weights = weights_of(made)
    if set(weights) <= set(trained):
        notes = (*notes, f"guard.terms: {', '.join(weights)} is what is trained for; another judge would see more")
    return Judges(made, weights, notes)


def weights_of(reward: rewards.Reward) -> dict[str, float]:
    """Every term's weight, with the sign that makes larger better."""
    return {one.term.label: one.weight for one in reward.terms}
