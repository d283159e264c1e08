"""What looks: draws the held-out prompts with fixed seeds, and has the pictures scored by everybody."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.pipelines import rewards
from studio.pipelines.errors import UsageError
from studio.pipelines.reward_guard_aside import agreed, untouched
from studio.pipelines.reward_guard_judges import Judges, weights_of
from studio.pipelines.reward_guard_look import Look, mean, unit
from studio.pipelines.reward_guard_variety import Variety

Draw = Callable[[Sequence[str], Sequence[int]], Tensor]
Shots = tuple[list[str], list[int]]


def shots(prompts: Sequence[str], pictures: int, wanted: int, seed: int) -> Shots:
    """Prompts and seeds of the pictures; prompts in turn, so that each has as many as any other, or one more.

    wanted: prompts, 0 for as many as give each two pictures. Raises UsageError without a prompt.
    """
    count = min(wanted or pictures // 2, len(prompts), pictures)
    if not count:
        raise UsageError("guard: there is no prompt to look at; give prompts.held_out, or guard.every = 0")
    chosen = [prompts[number * len(prompts) // count] for number in range(count)]
    return [chosen[number % count] for number in range(pictures)], [seed + number for number in range(pictures)]


@dataclass(frozen=True)
class Eye:
    """draw: (prompts, seeds) -> pictures `[N, 3, H, W]` in 0..1; reward: the trained one; measure_kl: the distance from
    what the run began with, None: not measured; references: the subject's pictures.
    """

    shots: Shots
    draw: Draw
    reward: rewards.Reward
    judges: Judges
    variety: Variety
    measure_kl: Callable[[], float] | None
    references: Sequence[Tensor] | None
    device: torch.device

    @property
    def asked(self) -> str:
        """What must be the same for two looks to compare."""
        return json.dumps([*self.shots, sorted(self.judges.weights), sorted(self.reward.names), self.variety.name])

    def look(self, step: int, kept: Mapping[str, Any]) -> tuple[Look, Tensor, tuple[str, ...]]:
        """A look, the logarithms of the files' sizes, and warnings. Global random generators are left as they were.

        kept: the first look as `start` and its files as `sizes`, where there was one.
        """
        prompts, seeds = self.shots
        # a run's first look comes from inside a step, where half precision may be on; the others do not
        with torch.no_grad(), untouched(), torch.autocast(self.device.type, enabled=False):
            pictures = self.draw(prompts, seeds).float()
            held, sizes, told = self.judges(pictures, prompts, self.references, kept.get("sizes"))
            trained, parts, more = self.trained(pictures, prompts, kept.get("start", {}).get("parts"))
            spread = self.variety(pictures, prompts)
            kl = None if self.measure_kl is None else self.measure_kl()
        broken = int((~pictures.flatten(1).isfinite().all(1)).sum())
        found = agreed(Look(step, trained, parts, held, spread, kl, broken))
        return found, sizes, (*told, *more, *found.silent())

    def trained(
        self, pictures: Tensor, prompts: list[str], start: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor], tuple[str, ...]]:
        """The trained reward `[N]`, its terms, and warnings. start: the terms of the first look.

        Several terms are each measured in units of the start's pictures: in the run's own deviations, which move, two
        looks would not compare.
        """
        scored = self.reward(pictures, prompts, self.references)
        parts = {name: values.float().cpu() for name, values in scored.raw.items()}
        if not self.reward.config.standardised:
            return torch.where(scored.good, scored.value, torch.nan).float().cpu(), parts, scored.warnings
        first = parts if start is None else start
        rows = [
            w * (parts[name] - mean(first[name])) / unit(first[name]) for name, w in weights_of(self.reward).items()
        ]
        return torch.stack(rows).sum(0), parts, scored.warnings
