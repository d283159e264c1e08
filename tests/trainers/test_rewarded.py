"""What all trainers by rewards keep: no NaN gradient of what was not scored, refusals by term, counted queries."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.guards import NotFinite
from studio.pipelines import backbone
from studio.pipelines.draws import Share
from studio.trainers import lcm, policy_rows
from tests import alignprop as cases
from tests.alignprop import lesson
from tests.policies import disturb, run
from tests.trainers.test_lcm import PROMPTS, drawn, moved, slope

DOGS = "tests.alignprop:only_dogs"


def rooted(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """The root of 0: a finite number with an infinite gradient."""
    return (images - images.detach()).sum((1, 2, 3)).sqrt()


rooted.differentiable = True  # type: ignore[attr-defined]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(cases, "rooted", rooted, raising=False)
    return "tests.alignprop:rooted"


@pytest.mark.parametrize("trainer", ["rlcm", "ddpo"])
def test_what_could_not_be_scored_spoils_no_path(trainer: str) -> None:
    """Two of four prompts have a reward of 0 / 0, whose gradient is NaN: the others are learnt from."""
    one = run(trainer, reward=DOGS, pathwise=1.0, steps=2, guidance_scale=1.0)
    before = [parameter.detach().clone() for parameter in one.adapter.parameters()]
    ticks = list(one.ticks())
    assert [tick.numbers["unscored"] for tick in ticks] == [0.5, 0.5]
    assert all(tick.numbers["grad_norm"] > 0 for tick in ticks)
    assert any(not torch.equal(old, new) for old, new in zip(before, one.adapter.parameters(), strict=True))


def test_nor_does_it_spoil_distillation() -> None:
    model = backbone.load("toy")
    adapter = moved(model)
    assert any("dog" not in prompt for prompt in PROMPTS)
    with_nan = slope(model, adapter, beta=1.0, reward={"terms": (DOGS,)})
    assert with_nan.isfinite().all()
    assert not torch.equal(with_nan, slope(model, adapter))
    loss = next(lcm.losses(lcm.Config(beta=1.0, reward={"terms": (DOGS,)}), model, adapter, drawn(model), {}))
    assert loss.then is not None
    shown = loss.then({name: float(value) for name, value in loss.numbers.items()}).numbers
    share = 1 - float(loss.numbers["unscored"])
    assert 0 < share < 1
    assert shown["reward"] == pytest.approx(float(loss.numbers["reward"]) / share)


def test_a_refused_step_names_the_term_whose_gradient_was_not_finite(broken: str) -> None:
    one = lesson(reward={"terms": ["tests.alignprop:warmth", broken]})
    with pytest.raises(NotFinite, match=f"first bad: the gradient of reward term '{broken}'.*mend it, or take it out"):
        list(one.ticks())
    with pytest.raises(NotFinite, match=f"reward term '{broken}'"):
        list(run("rlcm", reward=f"redness+{broken}", pathwise=1.0).ticks())


def test_parts_for_which_nothing_is_left_ask_nobody() -> None:
    """8 pictures in 3 updates of one at a time: 3, 3 and 2 of them, and an empty part."""
    one = run("rlcm", pathwise=1.0, batch=1, updates=3, steps=3, sampler_steps=2)
    ticks = list(one.ticks())
    assert [tick.numbers["queries"] for tick in ticks] == [11, 14, 16]


def test_an_empty_part_has_a_gradient_of_nothing() -> None:
    one = run("rlcm", pathwise=1.0)
    disturb(one.adapter)
    lessons = one.lessons()
    rollout = lessons.roll_out()
    value, _ = policy_rows.path(one.config, lessons.studio, rollout, torch.tensor([0]), 0.0)
    found = torch.autograd.grad(value, one.adapter.parameters())
    assert not any(gradient.any() for gradient in found)


def test_all_processes_queries_are_counted_on_the_path_too() -> None:
    one = run("rlcm", pathwise=1.0)
    lessons = one.lessons()
    rollout, memory = lessons.roll_out(), one.memory
    assert memory["queries"] == 8
    one.data.share = Share(1, 4)
    policy_rows.path(one.config, lessons.studio, rollout, torch.arange(3), 1.0)
    assert memory["queries"] == 8 + 3 * 4


@pytest.mark.parametrize("reward", ["patchy", "redness+patchy"])
def test_a_roll_out_without_any_reward_shows_no_number(reward: str) -> None:
    one = run("rlcm", reward=reward, prompts={"texts": ["a bird"]}, steps=3)
    ticks = list(islice(one.ticks(), 3))
    assert [sum("could be scored" in text for text in tick.warnings) for tick in ticks] == [1, 0, 0]
    assert all(tick.numbers["reward"] != tick.numbers["reward"] for tick in ticks)
