"""What the pictures of a roll-out are worth, by the rewards of all processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.pipelines import policy_order
from studio.pipelines.policy_advantages import counted, exact
from studio.pipelines.policy_order import Micro
from studio.pipelines.policy_plan import Plan
from studio.pipelines.policy_rollout import Drawn
from studio.pipelines.policy_settings import Policy

HISTORY, APART = "rewards", "log-ratios"  # of each prompt, in memory
TERMS = "terms"  # in memory: whose raw numbers the rows of HISTORY are; absent where it holds rewards
Terms = Mapping[str, tuple[Tensor, float]]


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
    terms: Terms | None = None,
) -> Rollout:
    """A roll-out with advantages by the rewards `[N]` of all processes. Changes `memory`.

    known: all prompts there are, the same in all processes; part: rows that one process has in a row; terms: each
    term's raw numbers `[N]` and its unit, where units change (`Scored.moving`), for comparing with older rewards.
    """
    terms = terms or {}
    number = {prompt: i for i, prompt in enumerate(known)}
    columns = [torch.tensor([number[prompt] for prompt in drawn.prompts]), rewards.nan_to_num().cpu(), good.cpu()]
    raw = [numbers.nan_to_num().cpu() for numbers, _ in terms.values()]
    columns = [*columns, drawn.apart, *raw]
    rows, ours = policy_order.gathered(torch.stack([*map(torch.Tensor.double, columns)], 1), part)
    values, fine, apart = rows[:, 1], rows[:, 2] > 0, rows[:, 3]
    prompts = [known[int(i)] for i in rows[:, 0]]
    units = exact([unit for _, unit in terms.values()]) if terms else None
    told = values if units is None else rows[:, 4:]
    standard = settings.standard(history(memory, list(terms)), prompts, told, fine, units)
    advantages = standard.advantages(counted(told, units), fine, settings.adv_clip)
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


def forgets(memory: Mapping[str, Any], terms: Terms) -> list[str]:
    """What a person should know before `valued`: that it will not use the rewards which memory holds."""
    if not memory.get(HISTORY) or memory.get(TERMS, []) == list(terms):
        return []
    return [
        "the last rewards of each prompt were kept in moving units or are of other terms: they are forgotten, and a "
        "prompt is compared with the roll-out until it has enough of its own again"
    ]


def history(memory: dict[str, Any], terms: list[str]) -> dict[str, Any]:
    """The last rewards of each prompt; none where those in memory are of other terms, or were kept in moving units."""
    if memory.get(TERMS, []) != terms:
        memory[HISTORY] = {}
        memory[TERMS] = terms
    found: dict[str, Any] = memory.setdefault(HISTORY, {})
    return found


def micros(
    settings: Policy, count: int, losses: tuple[int, int], items: int, generator: torch.Generator
) -> Iterator[tuple[list[Micro], list[Micro]]]:
    """For each optimizer step of a round: micro-batches of `count` pairs, and of `items` pictures for the path."""
    policy, path = losses
    first = policy_order.deal(count, settings.updates, policy, policy + path, generator)
    if not path:
        return ((micros, []) for micros in first)
    return zip(first, policy_order.deal(items, settings.updates, path, policy + path, generator), strict=True)
