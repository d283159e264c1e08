"""Advantages, the clipped loss and micro-batches: laws that hold without a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from studio.pipelines import policy_advantages, policy_order, policy_settings, policy_value
from studio.pipelines.policy_loss import clipped, health
from studio.pipelines.policy_plan import Plan
from studio.pipelines.policy_rollout import Drawn, shares
from studio.pipelines.policy_settings import Policy
from studio.pipelines.schedules import Coefficients

CLIP = 1e-4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "slope"),
    [(1, 0, -1), (1, 0.01, 0), (1, -0.01, -1), (-1, 0, 1), (-1, 0.01, 1), (-1, -0.01, 0)],
)
def test_the_truth_table(advantage: float, log_ratio: float, slope: float) -> None:
    """What is already as far as the clip in the wished direction is left alone, everything else is pushed."""
    at = torch.tensor([float(log_ratio)], requires_grad=True)
    clipped(at, torch.tensor([float(advantage)]), CLIP).sum().backward()
    assert at.grad is not None
    torch.testing.assert_close(at.grad, torch.tensor([float(slope)]), atol=0.02, rtol=0)
    assert slope or at.grad.item() == 0


def test_at_a_ratio_of_one_its_gradient_is_that_of_reinforce() -> None:
    advantages, log_prob = torch.randn(64, generator=seeded()), torch.randn(64, generator=seeded(1), requires_grad=True)
    (ours,) = torch.autograd.grad(clipped(log_prob - log_prob.detach(), advantages, CLIP).mean(), log_prob)
    (plain,) = torch.autograd.grad(-(advantages * log_prob).mean(), log_prob)
    torch.testing.assert_close(ours, plain, atol=1e-9, rtol=0)


def test_ratios_of_sums_stay_finite() -> None:
    """Log-ratios of summed densities reach thousands: the loss and its gradient are finite all the same."""
    at = torch.tensor([5000.0, 5000.0, -5000.0, -5000.0], requires_grad=True)
    value = clipped(at, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    value.sum().backward()
    assert value.isfinite().all()
    assert at.grad is not None
    assert at.grad.isfinite().all()


def test_health_counts_what_is_beyond_the_clip() -> None:
    found = health(torch.tensor([0.0, 0.05, -0.2]), 0.1)
    torch.testing.assert_close(found["ratio"], torch.tensor([0.0, 0.05, -0.2]).exp())
    assert found["clipfrac"].tolist() == [0, 0, 1]
    torch.testing.assert_close(found["approx_kl"], torch.tensor([0.0, 0.00125, 0.02]))


ALL = torch.ones(6, dtype=torch.bool)
NAMES = ["cat", "dog", "cat", "dog", "cat", "dog"]


def tracked(history: Any, rewards: Tensor, good: Tensor = ALL, size: int = 16, least: int = 4) -> Tensor:
    standard = policy_advantages.tracked(history, NAMES, rewards, good, size, least)
    return standard.advantages(rewards, good, 10.0)


def test_few_rewards_of_a_prompt_are_compared_with_the_batch_and_enough_with_their_own() -> None:
    history: dict[str, list[float]] = {}
    first = torch.tensor([1.0, 10, 2, 20, 3, 60]).double()
    torch.testing.assert_close(tracked(history, first), (first - first.mean()) / (first.std(correction=0) + 1e-6))
    second = torch.tensor([4.0, 70, 5, 80, 6, 90]).double()
    found = tracked(history, second)
    cats, dogs = torch.tensor([1.0, 2, 3, 4, 5, 6]).double(), torch.tensor([10.0, 20, 60, 70, 80, 90]).double()
    for rows, own in ((slice(0, None, 2), cats), (slice(1, None, 2), dogs)):
        torch.testing.assert_close(found[rows], (second[rows] - own.mean()) / (own.std(correction=0) + 1e-6))
    assert history["cat"] == [1, 2, 3, 4, 5, 6]


def test_the_oldest_rewards_are_forgotten() -> None:
    history: dict[str, list[float]] = {}
    for start in (0, 10):
        tracked(history, torch.arange(6.0) + start, size=4, least=2)
    assert history == {"cat": [4, 10, 12, 14], "dog": [5, 11, 13, 15]}


@pytest.mark.parametrize("kind", ["tracker", "group"])
def test_advantages_do_not_know_the_units_of_the_reward(kind: str) -> None:
    rewards = torch.randn(6, generator=seeded()).double()

    def found(values: Tensor) -> Tensor:
        if kind == "tracker":
            return tracked({}, values, least=2)
        return policy_advantages.grouped(NAMES, values, ALL).advantages(values, ALL, 10)

    torch.testing.assert_close(found(1000 * rewards + 7), found(rewards), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("spread", ["prompt", "rollout"])
def test_groups_sum_to_nothing(spread: Any) -> None:
    rewards = torch.randn(6, generator=seeded()).double() * torch.tensor([1, 50] * 3)
    standard = policy_advantages.grouped(NAMES, rewards, ALL, spread)
    found = standard.advantages(rewards, ALL, 10)
    torch.testing.assert_close(found[::2].sum(), torch.tensor(0.0).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(found[1::2].sum(), torch.tensor(0.0).double(), atol=1e-9, rtol=0)
    wide = found[1::2].abs().max() / found[::2].abs().max()
    assert wide > 10 if spread == "rollout" else wide < 3


def test_a_prompt_whose_rewards_do_not_vary_teaches_nothing_and_is_counted() -> None:
    rewards = torch.tensor([0.1, 1, 0.1, 2, 0.1, 4])
    for standard in (
        policy_advantages.tracked({}, NAMES, rewards, ALL, 16, 2),
        policy_advantages.grouped(NAMES, rewards, ALL),
    ):
        assert standard.advantages(rewards, ALL, 10)[::2].tolist() == [0, 0, 0]
        assert standard.advantages(rewards, ALL, 10)[1::2].abs().min() > 0
        assert standard.share_flat(NAMES, ALL) == 0.5


def test_rows_without_a_reward_are_in_no_statistic() -> None:
    rewards, good = torch.tensor([1.0, 2, torch.nan, 4, 3, torch.nan]), torch.tensor([1, 1, 0, 1, 1, 0]).bool()
    history: dict[str, list[float]] = {}
    found = tracked(history, rewards, good)
    assert history == {"cat": [1, 3], "dog": [2, 4]}
    known = rewards[good].double()
    torch.testing.assert_close(found[good], (known - known.mean()) / (known.std(correction=0) + 1e-6))
    assert found[~good].tolist() == [0, 0]
    for rows in (policy_advantages.grouped(NAMES, rewards, good).advantages(rewards, good, 10), found):
        assert rows.isfinite().all()


def test_advantages_are_cut_off() -> None:
    rewards = torch.tensor([0.0, 0, 0, 0, 0, 100])
    standard = policy_advantages.tracked({}, NAMES, rewards, ALL, 16, 16)
    assert standard.advantages(rewards, ALL, 1.5)[-1] == 1.5


@pytest.mark.parametrize(("updates", "parts"), [(1, 1), (1, 5), (3, 4), (2, 30)])
def test_micro_batches_hold_everything_once_and_weigh_as_one_batch(updates: int, parts: int) -> None:
    """A step's mean over its losses is the mean over its items, however they are cut."""
    values = torch.randn(23, generator=seeded()).double()
    steps = list(policy_order.deal(23, updates, parts, parts, seeded(1)))
    assert [len(step) for step in steps] == [parts] * updates
    held = torch.cat([micro.items for step in steps for micro in step if micro.scale])
    assert sorted(held.tolist()) == list(range(23))
    for step in steps:
        items = torch.cat([micro.items for micro in step if micro.scale])
        mean = sum((values[micro.items].sum() * micro.scale for micro in step), torch.tensor(0.0)) / parts
        torch.testing.assert_close(mean, values[items].mean())
        sizes = [len(micro.items) for micro in step]
        assert max(sizes) - min(sizes) <= 1


def test_two_processes_value_their_pictures_as_one_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come together in the order of one process, and each takes its own back."""
    names, part = ["a", "b", "c", "d", "a", "b", "c", "d"], 2
    rewards = torch.randn(8, generator=seeded()).double()
    halves = [policy_order.mine(4, part, rank, 2) for rank in (0, 1)]
    assert [half.tolist() for half in halves] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert torch.equal(policy_order.woven([rewards[half] for half in halves], part), rewards)
    settings, plan = Policy(min_count=2), Plan(1.0, (Coefficients(0, 0, 0, 1, 0, 0),))
    good = torch.ones(8, dtype=torch.bool)

    def valued(rows: Tensor, memory: dict[str, Any]) -> policy_value.Rollout:
        zeros = torch.zeros(len(rows), 1)
        drawn = Drawn([names[row] for row in rows], zeros, zeros, zeros, zeros[:, 0])
        return policy_value.valued(
            settings, plan, drawn, rewards[rows].float(), good[rows], ["d", "c", "b", "a"], part, memory
        )

    alone: dict[str, Any] = {}
    whole = valued(torch.arange(8), alone)
    index = torch.tensor([["d", "c", "b", "a"].index(name) for name in names])
    told = torch.stack([index.double(), rewards.float().double(), good.double(), torch.zeros(8).double()], 1)
    for rank, half in enumerate(halves):

        def everyone(rows: Tensor, part: int, rank: int = rank, half: Tensor = half) -> tuple[Tensor, Tensor]:
            assert torch.equal(rows, told[half])
            return policy_order.woven([told[one] for one in halves], part), policy_order.mine(4, part, rank, 2)

        monkeypatch.setattr(policy_order, "gathered", everyone)
        memory: dict[str, Any] = {}
        mine = valued(half, memory)
        assert torch.equal(mine.advantages, whole.advantages[half])
        assert memory == alone
        assert mine.numbers == whole.numbers


def test_the_log_ratio_to_the_reference_is_taken_off() -> None:
    """Carve3D's penalty: standardised as rewards are, so that its weight has no units."""
    settings = Policy(min_count=16, kl_reward=0.2)
    plan, zeros = Plan(1.0, (Coefficients(0, 0, 0, 1, 0, 0),)), torch.zeros(6, 1)
    rewards, apart = torch.randn(6, generator=seeded()), torch.randn(6, generator=seeded(1))
    drawn = Drawn(NAMES, zeros, zeros, zeros, apart)
    found = policy_value.valued(settings, plan, drawn, rewards, ALL, ["cat", "dog"], 6, {})
    scaled = [(one.double() - one.double().mean()) / one.double().std(correction=0) for one in (rewards, apart)]
    torch.testing.assert_close(found.advantages, (scaled[0] - 0.2 * scaled[1]).float(), atol=1e-4, rtol=1e-4)


def test_weights_make_up_for_rows_without_a_reward() -> None:
    zeros, good = torch.zeros(6, 1), torch.tensor([1, 1, 0, 1, 1, 1]).bool()
    plan, rewards = Plan(1.0, (Coefficients(0, 0, 0, 1, 0, 0),)), torch.arange(6.0).where(good, torch.nan)
    drawn = Drawn(NAMES, zeros, zeros, zeros, zeros[:, 0])
    found = policy_value.valued(Policy(), plan, drawn, rewards, good, ["cat", "dog"], 6, {})
    torch.testing.assert_close(found.weights, torch.tensor([1.2, 1.2, 0, 1.2, 1.2, 1.2]))
    assert found.numbers["reward"] == 13 / 5


def test_a_share_of_steps_is_drawn_anew_for_each_picture() -> None:
    zeros, good = torch.zeros(50, 10), torch.ones(50, dtype=torch.bool)
    drawn = Drawn(["a"] * 50, zeros, zeros, zeros, zeros[:, 0])
    plan = Plan(1.0, (Coefficients(0, 0, 0, 1, 0, 0),))
    rollout = policy_value.valued(Policy(), plan, drawn, torch.arange(50.0), good, ["a"], 50, {})
    pairs = rollout.pairs(Policy(train_share=0.6).learnt(10), seeded())
    assert pairs.shape == (300, 2)
    assert len(pairs.unique(dim=0)) == 300
    assert pairs[:, 0].bincount().tolist() == [6] * 50
    assert pairs[:, 1].bincount(minlength=10).min() > 15


def test_passes_are_cut_into_calls() -> None:
    assert list(shares(7, 3)) == [3, 3, 1]
    assert list(shares(2, 4)) == [2]


@pytest.mark.parametrize(
    ("settings", "actions", "batch", "given", "found"),
    [
        ({}, 7, 4, 0, 28),
        ({}, 7, 4, 28, 28),
        ({}, 7, 4, 40, 40),  # what a smaller batch made of it: no harm
        ({}, 7, 4, 7, "accumulate = 7: .*needs 28"),
        ({}, 7, 4, 56, "accumulate = 56: .*needs 28"),
        ({"updates": 2}, 7, 4, 0, 14),
        ({"pathwise": 1}, 7, 4, 0, 32),
        ({"train_share": 0.5}, 7, 4, 0, 16),
        ({"group": 3}, 7, 4, 0, "rollout = 16 is no multiple of group = 3: use 15"),
        ({"rollout": 18}, 7, 4, 0, "18 prompts are no multiple of batch = 4: use 16"),
        ({"rollout": 2}, 1, 8, 0, 1),
        ({"rollout": 2, "updates": 3}, 1, 8, 0, "updates = 3"),
    ],
)
def test_the_losses_of_a_step_follow_from_the_roll_out(
    settings: Any, actions: int, batch: int, given: int, found: Any
) -> None:
    made = Policy(**settings)
    if isinstance(found, str):
        with pytest.raises(ValueError, match=found):
            policy_settings.accumulate(made, actions, batch, given)
    else:
        assert policy_settings.accumulate(made, actions, batch, given) == found
