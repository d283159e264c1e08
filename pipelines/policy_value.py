"""What the pictures of a roll-out are worth, by the rewards of all processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.pipelines import policy_order
from studio.pipelines.policy_order import Micro
from studio.pipelines.policy_plan import Plan
from studio.pipelines.policy_rollout import Drawn
from studio.pipelines.policy_settings import Policy

HISTORY, APART = "rewards", "log-ratios"  # of each prompt, in memory


@dataclass(frozen=True)
class Rollout:
    """Pictures and what they are worth, each `[N]` on the CPU.

    weights: 0 where there is no reward, and so much above 1 elsewhere that their mean is 1; gain: what a reward counts
    in advantages, 1 / (deviation + tiny), 0 where they do not vary; numbers: to be plotted.
    """

    plan: Plan
    drawn: Drawn
    advantages: Tensor
    weights: Tensor
    gain: Tensor
    numbers: dict[str, float]

    def pairs(self, share: int, generator: torch.Generator) -> Tensor:
        """`share` of each picture's actions, drawn at random: (picture, number of the action), `[N share, 2]`."""
        chosen = torch.rand(self.drawn.log_probs.shape, generator=generator).argsort(1)[:, :share]
        return torch.stack([torch.arange(len(chosen)).repeat_interleave(share), chosen.flatten()], 1)

    @property
    def worthless(self) -> bool:
        """Whether no picture was better than another of its prompt."""
        return not self.advantages.any()


def valued(
    settings: Policy,
    plan: Plan,
    drawn: Drawn,
    rewards: Tensor,
    good: Tensor,
    known: Sequence[str],
    part: int,
    memory: dict[str, Any],
) -> Rollout:
    """A roll-out with advantages by the rewards `[N]` of all processes. Changes `memory`.

    known: all prompts there are, the same in all processes; part: rows that one process has in a row.
    """
    number = {prompt: i for i, prompt in enumerate(known)}
    columns = [torch.tensor([number[prompt] for prompt in drawn.prompts]), rewards.nan_to_num().cpu(), good.cpu()]
    rows, ours = policy_order.gathered(torch.stack([*map(torch.Tensor.double, columns), drawn.apart.double()], 1), part)
    values, fine, apart = rows[:, 1], rows[:, 2] > 0, rows[:, 3]
    prompts = [known[int(i)] for i in rows[:, 0]]
    standard = settings.standard(memory.setdefault(HISTORY, {}), prompts, values, fine)
    advantages = standard.advantages(values, fine, settings.adv_clip)
    if settings.kl_reward:
        near = settings.standard(memory.setdefault(APART, {}), prompts, apart, fine)
        advantages = advantages - settings.kl_reward * near.advantages(apart, fine, settings.adv_clip)
    numbers = {"zero_variance": standard.share_flat(prompts, fine)}
    if fine.any():
        numbers |= {"reward": float(values[fine].mean()), "reward_std": float(values[fine].std(correction=0))}
    gain = torch.where(standard.flat, 0.0, 1 / (standard.std + standard.tiny))
    weights = fine.double() * len(fine) / max(1, int(fine.sum()))
    mine = [column[ours].float() for column in (advantages, weights, gain)]
    return Rollout(plan, drawn, mine[0], mine[1], mine[2], numbers)


def micros(
    settings: Policy, count: int, losses: tuple[int, int], items: int, generator: torch.Generator
) -> Iterator[tuple[list[Micro], list[Micro]]]:
    """For each optimizer step of a round: micro-batches of `count` pairs, and of `items` pictures for the path."""
    policy, path = losses
    first = policy_order.deal(count, settings.updates, policy, policy + path, generator)
    if not path:
        return ((micros, []) for micros in first)
    return zip(first, policy_order.deal(items, settings.updates, path, policy + path, generator), strict=True)
