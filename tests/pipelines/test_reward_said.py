"""What a run by rewards says and shows: means of what was scored, doubts, and which term spoils a gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from studio import guards
from studio.pipelines import reward_doubts, reward_loss, rewards, rewards_blame
from studio.pipelines.rewards import Reward, Rewards, Scored
from studio.trainers.base import Settings


def scored(*values: float) -> Scored:
    value = torch.tensor(values)
    return Scored(value, {"term": 2 * value}, value.isfinite())


def averaged(*batches: Scored) -> dict[str, float]:
    """As the loop averages over losses and processes, and as a run shows it."""
    found = [reward_loss.numbers(one) for one in batches]
    return reward_loss.settled({name: sum(float(one[name]) for one in found) / len(found) for name in found[0]})


def test_means_are_of_what_was_scored_wherever_it_was() -> None:
    nan = math.nan
    told = averaged(scored(1.0, nan), scored(nan, nan), scored(2.0, 6.0))
    assert told["reward"] == pytest.approx(3)
    assert told["reward/term"] == pytest.approx(6)
    assert told["reward_std"] == pytest.approx((0 + 2 * 2) / 3)
    assert averaged(scored(1.0, 3.0), scored(5.0, 7.0))["reward"] == 4
    assert all(math.isnan(value) for value in averaged(scored(nan), scored(nan)).values())
    assert set(averaged(scored(nan))) == {"reward", "reward_std", "reward/term"}


def test_numbers_of_all_processes_take_the_place_of_ones_own() -> None:
    found = reward_loss.numbers(scored(1.0, math.nan), {"reward": 9.0, "zero_variance": 0.25})
    assert float(found["reward"]) == 4.5
    assert float(found["reward/term"]) == 1
    assert found["zero_variance"] == 0.25


def test_what_goes_on_is_said_ever_less_often() -> None:
    memory: dict[str, Any] = {}
    nothing, some = {"unscored": 1.0}, {"unscored": 0.5}
    said = [reward_doubts.unscored(nothing, "batch", memory) for _ in range(reward_doubts.MOST)]
    assert [number for number, texts in enumerate(said, 1) if texts] == [1]
    assert reward_doubts.unscored(some, "batch", memory) == []
    assert reward_doubts.unscored(nothing, "batch", memory) != []
    said = [reward_doubts.saturated({"above": 1.0}, 2.0, memory) for _ in range(60)]
    assert [number for number, texts in enumerate(said, 1) if texts] == [5, 50]
    assert reward_doubts.saturated({"above": 0.9}, 2.0, memory) == []
    assert reward_doubts.saturated({}, None, memory) == []


def test_the_share_above_a_margin_is_of_what_was_scored() -> None:
    assert float(reward_loss.above(scored(3.0, 1.0, 2.0, math.nan), 2.0)["above"]) == pytest.approx(2 / 3)
    assert float(reward_loss.above(scored(math.nan), 2.0)["above"]) == 0
    assert reward_loss.above(scored(1.0), None) == {}


def test_the_terms_without_any_number_are_named() -> None:
    some, none = torch.tensor([1.0, math.nan]), torch.tensor([math.nan, math.nan])
    assert reward_doubts.muted(Scored(none, {"a": some, "b": none}, none.isfinite())) == ["b"]
    said = reward_doubts.lost(["b"], "batch", {reward_doubts.SILENT: 1}, last=True)
    assert "(b gave no number)" in str(said)


# gradients that are not finite


def rooted(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """The root of 0, whose gradient is infinite, for dogs; nothing for cats, with a gradient of NaN."""
    zero = (images - images.detach()).sum((1, 2, 3))
    cats = torch.tensor(["cat" in prompt for prompt in prompts])
    return torch.where(cats, zero / zero, zero.sqrt())


def cats_only(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """Brightness of cats; 0 / 0 for others."""
    cats = torch.tensor([float("cat" in prompt) for prompt in prompts])
    return images.mean((1, 2, 3)) / cats * cats


def plain(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """Brightness."""
    return images.mean((1, 2, 3))


for function in (rooted, cats_only, plain):
    function.differentiable = True  # type: ignore[attr-defined]


def reward(monkeypatch: pytest.MonkeyPatch, *functions: Any) -> Reward:
    """Of functions of this file, which pytest has imported under a name of its own."""
    import tests.reward_functions as home

    for one in functions:
        monkeypatch.setattr(home, one.__name__, one, raising=False)
    terms = tuple(f"tests.reward_functions:{one.__name__}" for one in functions)
    return rewards.build(Rewards(terms=terms, standardise="no"), torch.device("cpu"), torch.float32, True)


def test_the_term_whose_gradient_is_not_finite_is_named_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards_blame.culprits()
    one, images = reward(monkeypatch, plain, rooted), torch.rand(2, 3, 4, 4, requires_grad=True)
    one(images, ["a dog", "a dog"]).mean.backward()
    images.grad = None
    one(images, ["a dog", "a dog"]).mean.backward()  # a second loss of the same step
    assert rewards_blame.culprits() == ["tests.reward_functions:rooted"]
    assert rewards_blame.culprits() == []


def test_a_row_that_does_not_count_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards_blame.culprits()
    one, images = reward(monkeypatch, plain, cats_only), torch.rand(2, 3, 4, 4, requires_grad=True)
    seen = images * 1
    found = one(seen, ["a dog", "a cat"])
    rewards_blame.shielded(seen, found.good)
    found.mean.backward()
    assert rewards_blame.culprits() == []
    assert images.grad is not None
    assert images.grad[0].tolist() == torch.zeros(3, 4, 4).tolist()
    torch.testing.assert_close(images.grad[1], torch.full((3, 4, 4), 2 / 48))


def test_without_a_gradient_nothing_is_watched() -> None:
    images = torch.rand(1, 3, 2, 2)
    assert rewards_blame.Watch()("term", images) is images
    rewards_blame.shielded(images, torch.ones(1, dtype=torch.bool))


def test_the_advice_is_about_the_term() -> None:
    said = guards.advice("reward", Settings(lr=2e-3), "no", torch.float32)
    assert "mend it, or take it out" in said
    assert "learning rate" not in said
