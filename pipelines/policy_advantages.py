"""Rewards to advantages: how much better a picture is than others of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

# the last rewards of each prompt, oldest first: numbers, or rows of each term's own where their units change
History = dict[str, list[Any]]
TINY = {"tracker": 1e-6, "group": 1e-4}  # added to deviations: DDPO's and Flow-GRPO's
FLAT = 1e-9  # deviations below it, as a share of the largest reward, are rounding


@dataclass(frozen=True)
class Standard:
    """What each reward is compared with: mean and deviation, `[N]` float64; tiny: added to deviations."""

    mean: Tensor
    std: Tensor
    tiny: float

    def advantages(self, rewards: Tensor, good: Tensor, limit: float) -> Tensor:
        """(r - mean) / (std + tiny), cut off at `limit`; 0 for rows that are not `good`."""
        scaled = (rewards.double() - self.mean) / (self.std + self.tiny)
        return torch.where(good & ~self.flat, scaled, 0.0).clamp(-limit, limit)

    @property
    def flat(self) -> Tensor:
        """Rows whose rewards do not vary: there is nothing to learn from them."""
        return self.std <= FLAT * self.mean.abs().clamp(min=1e-30)

    def share_flat(self, prompts: Sequence[str], good: Tensor) -> float:
        """The share of prompts whose rewards do not vary."""
        known = {prompt: flat for prompt, flat, fine in zip(prompts, self.flat.tolist(), good, strict=True) if fine}
        return sum(known.values()) / max(1, len(known))


def counted(rewards: Tensor, units: Tensor | None) -> Tensor:
    """Rewards `[N]` of rows `[N, T]`: the sum of their terms' numbers times units `[T]`; as they are without units."""
    return rewards.double() if units is None else (rewards.double() * units).sum(-1)


def tracked(
    history: History,
    prompts: Sequence[str],
    rewards: Tensor,
    good: Tensor,
    size: int,
    least: int,
    units: Tensor | None = None,
) -> Standard:
    """Each prompt's own last `size` rewards (Black et al. 2023); this batch's where it has fewer than `least`.

    The batch is pushed first. Rows that are not `good` are in no statistic. Changes `history`. units: where rewards are
    rows `[N, T]` of raw numbers; the old ones count in the same units as the new, however these have changed since.
    """
    for prompt, reward, fine in zip(prompts, rewards.double().tolist(), good.tolist(), strict=True):
        if fine:
            history[prompt] = [*history.get(prompt, []), reward][-size:]
    batch = moments(counted(rewards[good], units))
    known = {prompt: history.get(prompt, []) for prompt in prompts}
    own = {p: moments(counted(exact(v), units)) if len(v) >= least else batch for p, v in known.items()}
    mean, std = exact([own[prompt] for prompt in prompts]).unbind(1)
    return Standard(mean, std, TINY["tracker"])


def grouped(
    prompts: Sequence[str], rewards: Tensor, good: Tensor, spread: Literal["prompt", "rollout"] = "prompt"
) -> Standard:
    """The other pictures of its prompt in this roll-out (GRPO): means by prompt, deviations by prompt or of all."""
    rewards, found = rewards.double(), {}
    for prompt in dict.fromkeys(prompts):
        rows = torch.tensor([one == prompt for one in prompts])
        found[prompt] = moments(rewards[rows & good])
    mean, std = exact([found[prompt] for prompt in prompts]).unbind(1)
    if spread == "rollout":
        std = torch.full_like(std, moments(rewards[good])[1])
    return Standard(mean, std, TINY["group"])


def exact(values: Sequence[Any]) -> Tensor:
    """Numbers as float64."""
    return torch.tensor(values, dtype=torch.float64)


def moments(values: Tensor) -> tuple[float, float]:
    """Mean and population deviation; 0, 0 of nothing."""
    return (float(values.mean()), float(values.std(correction=0))) if len(values) else (0.0, 0.0)
