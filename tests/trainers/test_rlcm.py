"""RLCM's laws: on-policy ratios, what a step is made of, resuming at roll-outs, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from pydantic import ValidationError
from torch import Tensor, nn

from studio.loop import Tick
from studio.pipelines import policy_value
from studio.pipelines.adapters import files
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_hearing import guidance_embedding
from studio.pipelines.policy_plan import Plan
from studio.pipelines.policy_rollout import Drawn
from studio.pipelines.protocols import Cond
from studio.pipelines.rewards import Scored
from studio.pipelines.schedules import Coefficients
from studio.trainers import policy_rows, rlcm
from tests.models import backbone, tiny_sd
from tests.policies import Run, disturb, first, gradients, run
from tests.states import differences, through_disk


def values(ticks: list[Tick], name: str) -> list[float]:
    return [tick.numbers[name] for tick in ticks]


def test_one_step_per_roll_out_is_on_policy() -> None:
    """As published: the ratio is 1, nothing is clipped, and every step is a safe point."""
    one = run("rlcm")
    ticks = list(one.ticks())
    assert one.config.accumulate == 8 * 3 / 4
    assert values(ticks, "ratio") == pytest.approx([1] * 4, abs=1e-6)
    assert values(ticks, "clipfrac") == [0] * 4
    assert max(values(ticks, "approx_kl")) < 1e-12
    assert [tick.safe for tick in ticks] == [True] * 4
    assert values(ticks, "queries") == [8, 16, 24, 32]
    assert one.data.position == 8


def test_more_steps_per_roll_out_leave_the_policy_and_are_safe_at_its_end() -> None:
    one = run("rlcm", updates=2, epochs=2, rollout=16, lr=1e-2)
    ticks = list(one.ticks())
    assert [tick.safe for tick in ticks] == [False, False, False, True]
    assert values(ticks, "ratio")[0] == pytest.approx(1, abs=1e-6)
    assert values(ticks, "clipfrac")[0] == 0
    assert values(ticks, "clipfrac")[-1] > 0.5
    assert values(ticks, "approx_kl")[-1] > 1e-9
    assert values(ticks, "queries") == [16] * 4
    assert len(set(values(ticks, "reward"))) == 1


@pytest.mark.parametrize(("group", "reward"), [(1, "redness"), (4, "redness"), (1, "redness+brightness")])
def test_stopped_at_a_roll_out_and_resumed_equals_straight(group: int, reward: str, tmp_path: Path) -> None:
    """Every number and, at the end, all state: adapter, moments, and the rewards of each prompt."""
    settings: dict[str, Any] = {"steps": 8, "updates": 2, "rollout": 16, "buffer_size": 8, "min_count": 2}
    settings |= {"group": group, "reward": reward, "beta": 0.01}
    straight = list(run("rlcm", **settings).ticks())
    one = run("rlcm", **settings)
    head = list(one.ticks(stop=lambda: len(one.memory.get("policy", {})) > 0))
    assert [tick.step for tick in head] == [1, 2]
    state = through_disk(head[-1].state(), tmp_path)
    torch.manual_seed(99)
    two = run("rlcm", **settings)
    two.data.position = one.data.position
    tail = list(two.ticks(start=2, state=state))
    assert [tick.numbers for tick in head + tail] == [tick.numbers for tick in straight]
    assert differences(tail[-1].state(), straight[-1].state()) == []


def whole(one: Run, order: Tensor, cuts: int, beta: float = 0.0) -> list[Tensor]:
    """The gradient of one roll-out, its pairs in an order and cut into so many losses."""
    lessons = one.lessons()
    rollout = lessons.roll_out()
    pairs = rollout.pairs(3, torch.Generator().manual_seed(0))[order]
    config = one.config.model_copy(update={"beta": beta})
    parts = [policy_rows.policy(config, lessons.studio, rollout, part, 1 / 24) for part in pairs.tensor_split(cuts)]
    return gradients(one.adapter, torch.stack([value for value, _ in parts]).sum())


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_neither_order_nor_cut_changes_a_step(beta: float) -> None:
    found = []
    for order, cuts in ((torch.arange(24), 1), (torch.arange(24), 6), (torch.arange(24).flip(0), 5)):
        one = run("rlcm")
        disturb(one.adapter)
        found.append(whole(one, order, cuts, beta))
    for other in found[1:]:
        for left, right in zip(found[0], other, strict=True):
            torch.testing.assert_close(left, right, atol=1e-8, rtol=1e-4)
    assert max(gradient.abs().max() for gradient in found[0]) > 1e-6


def test_its_gradient_is_that_of_reinforce() -> None:
    """Mean over pairs of -advantage times the gradient of the log-probability, each pair alone."""
    one = run("rlcm")
    disturb(one.adapter)
    lessons = one.lessons()
    rollout = lessons.roll_out()
    pairs = rollout.pairs(3, torch.Generator().manual_seed(0))
    value, _ = policy_rows.policy(one.config, lessons.studio, rollout, pairs, 1 / len(pairs))
    total = torch.zeros(())
    for row, action in pairs.tolist():
        states = rollout.drawn.states[row]
        cond = one.model.embed([rollout.drawn.prompts[row]])
        step = rollout.plan.again(one.model.predict, states[action][None], torch.tensor([action]), cond)
        total = total - rollout.advantages[row] * step.log_prob(states[action + 1][None], "mean")[0] / len(pairs)
    for ours, plain in zip(gradients(one.adapter, value), gradients(one.adapter, total), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-8, rtol=1e-4)


def test_sums_have_as_many_times_the_gradient_as_there_are_elements() -> None:
    found = []
    for reduction in ("mean", "sum"):
        one = run("rlcm", logprob_reduction=reduction)
        disturb(one.adapter)
        found.append(whole(one, torch.arange(24), 3))
    for mean, total in zip(*found, strict=True):
        torch.testing.assert_close(total, 32 * mean, atol=1e-6, rtol=1e-3)


def test_the_kl_is_nothing_at_the_start_and_pulls_back_later() -> None:
    one = run("rlcm", beta=0.1, lr=1e-2)
    kls = values(list(one.ticks()), "policy_kl")
    assert kls[0] == 0
    assert all(kl > 0 for kl in kls[1:])
    strong = values(list(run("rlcm", beta=1e4, lr=1e-2, steps=6).ticks()), "policy_kl")
    weak = values(list(run("rlcm", beta=1e-9, lr=1e-2, steps=6).ticks()), "policy_kl")
    assert strong[-1] < weak[-1] / 2


def test_against_what_it_went_on_from() -> None:
    """With a start in memory, the KL is to that start, not to the base model."""
    one = run("rlcm", beta=0.1)
    disturb(one.adapter)
    one.memory["start"] = {name: tensor.clone() for name, tensor in one.adapter.state_dict().items()}
    assert first(one.losses, 1)[0].numbers["policy_kl"] == 0
    two = run("rlcm", beta=0.1)
    disturb(two.adapter)
    assert first(two.losses, 1)[0].numbers["policy_kl"] > 0


def test_pictures_of_one_reward_teach_nothing() -> None:
    """Not even momentum moves the weights."""
    one = run("rlcm", reward="greyness", steps=2)
    before = {name: tensor.clone() for name, tensor in one.adapter.state_dict().items()}
    ticks = list(one.ticks())
    assert values(ticks, "zero_variance") == [1, 1]
    assert values(ticks, "idle") == [1, 1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.adapter.state_dict().items())


def test_pictures_without_a_reward_are_left_out() -> None:
    one = run("rlcm", reward="patchy", steps=2, weight_decay=0.0)
    ticks = list(one.ticks())
    assert values(ticks, "unscored") == [0.25, 0.25]
    assert all(math.isfinite(value) for tick in ticks for value in tick.numbers.values())
    assert "a bird" not in one.memory["policy"]["rewards"]
    assert not any("could be scored" in text for tick in ticks for text in tick.warnings)
    rollout = run("rlcm", reward="patchy").lessons().roll_out()
    birds = torch.tensor([prompt == "a bird" for prompt in rollout.drawn.prompts])
    assert rollout.advantages[birds].tolist() == [0, 0]
    assert rollout.advantages[~birds].abs().min() > 0


def test_a_roll_out_without_any_reward_is_said_and_teaches_nothing() -> None:
    one = run("rlcm", reward="patchy", prompts={"texts": ["a bird"]}, steps=2)
    tick = next(one.ticks())
    assert tick.numbers["idle"] == 1
    assert any("no picture of a roll-out could be scored" in text for text in tick.warnings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampler_steps": 1}, "no action to learn; use 2 or more, or the trainer alignprop"),
        ({"accumulate": 2}, "accumulate = 2: .*needs 6"),
        ({"steps": 5, "updates": 2}, "steps = 5: .*in 2 steps: use 6"),
        ({"guard": {"every": 3}, "updates": 2}, "guard.every = 3: .*every 2 steps"),
        ({"rollout": 6, "group": 4}, "rollout = 6 is no multiple of group = 4"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_with_those_that_do(settings: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        run("rlcm", **settings)


def test_timesteps_by_hand() -> None:
    """The grid of the paper's own scheduler, which is not diffusers'."""
    one = run("rlcm", timesteps=(999, 759, 519, 279))
    assert [int(step.t) for step in one.lessons().roll_out().plan.steps] == [999, 759, 519, 279]
    with pytest.raises(UsageError, match="timesteps: 3 of them for sampler_steps = 4"):
        run("rlcm", timesteps=(999, 759, 519))


def test_terminal_noise_is_one_more_action() -> None:
    one = run("rlcm", include_terminal_noise=True)
    assert one.config.accumulate == 8
    assert one.lessons().roll_out().drawn.log_probs.shape == (8, 4)


def test_it_says_when_nothing_makes_the_model_draw_in_few_steps(tmp_path: Path) -> None:
    assert ["few-step LoRA as start" in text for tick in run("rlcm").ticks() for text in tick.warnings] == [True]
    config = rlcm.Config(start=tmp_path)
    assert rlcm.doubts(config, backbone("toy", tmp_path)) == ()


def test_dropout_stays_off_and_is_said() -> None:
    one = run("rlcm", adapter={"rank": 4, "dropout": 0.5}, steps=1)
    disturb(one.adapter)
    (tick,) = one.ticks()
    assert tick.numbers["ratio"] == pytest.approx(1, abs=1e-6)
    assert any("adapter.dropout stays off" in text for text in tick.warnings)


def test_its_file_keeps_the_strength_of_alpha(tmp_path: Path) -> None:
    """rank 4, alpha 8: read back at a strength of 1 instead of 2 it would be another model."""
    one = run("rlcm", adapter={"rank": 4, "alpha": 8}, lr=1e-2)
    list(one.ticks())
    x, t, cond = torch.randn(2, 2, 4, 4), torch.tensor([100, 900]), one.model.embed(["a cat", "a dog"])
    with torch.no_grad():
        trained = one.model.predict(x, t, cond)
        fresh = backbone("toy", tmp_path)
        assert not torch.equal(fresh.predict(x, t, cond), trained)
        files.load(fresh, files.save(one.model, one.adapter, tmp_path / "adapter.safetensors"))
        assert torch.equal(fresh.predict(x, t, cond), trained)


def test_a_network_that_hears_guidance_is_told_it_in_roll_outs_and_in_learning(tmp_path: Path) -> None:
    """One prediction a step, and the ratio is 1: both hear the same."""
    config = UNet2DConditionModel.load_config(tiny_sd(tmp_path / "sd") / "unet")
    torch.manual_seed(0)
    UNet2DConditionModel.from_config({**config, "time_cond_proj_dim": 8}).save_pretrained(tmp_path / "sd" / "unet")
    one = run("rlcm", name=str(tmp_path / "sd"), rollout=4, guidance_scale=8.0, sampler_steps=3)
    heard: list[Tensor] = []
    forward = one.model.net.forward

    def watched(x: Tensor, t: Tensor, **told: Any) -> Any:
        heard.append(told["timestep_cond"])
        return forward(x, t, **told)

    one.model.net.forward = watched  # type: ignore[method-assign]
    loss = first(one.losses, 1)[0]
    assert loss.numbers["ratio"] / loss.numbers["ratio"].round() == pytest.approx(1, abs=1e-5)
    assert len(heard) == 4
    assert all(torch.equal(told, guidance_embedding(torch.full((4,), 7.0), 8)) for told in heard)
    quiet = rlcm.Config(sampler_steps=3)
    assert "8 is usual" in rlcm.doubts(quiet, one.model)[0]


class Point(nn.Module):
    """A model of one number: it predicts theta, whatever it sees."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Identity()
        self.theta = nn.Parameter(torch.tensor(0.3))

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.theta.expand(x.shape)

    def embed(self, prompts: list[str]) -> Cond:
        return Cond(torch.zeros(len(prompts), 1, 1))

    def decode(self, latents: Tensor) -> Tensor:
        return latents.expand(-1, 3, -1, -1) * 2 - 1  # so that the picture is the latent


A, B, GOAL, SPREAD = 0.6, 0.4, 0.8, 0.05


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_policy_and_path_together_are_the_whole_gradient_of_the_expected_reward(reduction: str) -> None:
    """a ~ N(theta, s^2), then x = A a + B theta, r = -(x - c)^2: dE r = -2 (A + B) ((A + B) theta - c).

    The policy's part is A / (A + B) of it, the path's the rest, and noise after the end adds nothing.
    """
    count, model = 40_000, Point()
    steps = (Coefficients(9, 0, 1, SPREAD, 0, 1), Coefficients(1, A, B, 0.0, A, B))
    after = Coefficients(1, A, B, 0.1, A, B)
    generator = torch.Generator().manual_seed(1)
    found: dict[str, Tensor] = {}
    for name, plan in {"plain": Plan(1.0, steps), "terminal": Plan(1.0, steps, after)}.items():
        noise = torch.zeros(count, 1, 1, 1)
        states, log_probs, clean = plan.play(model.predict, noise, model.embed([]), generator, 1, reduction)
        states, log_probs, clean = states.detach(), log_probs.detach(), clean.detach()
        rewards = -(clean.flatten() - GOAL).square()
        drawn = Drawn(["a"] * count, states, log_probs, clean, torch.zeros(count))
        ones = torch.ones(count)
        rollout = policy_value.Rollout(plan, drawn, rewards - rewards.mean(), ones, ones, {})
        config = SimpleNamespace(beta=0, logprob_reduction=reduction, clip_ratio=0.2, guidance_scale=1.0, pathwise=1.0)
        adapter = SimpleNamespace(trains_text=False)
        studio: Any = SimpleNamespace(model=model, adapter=adapter, memory={}, score=scored)
        rows = torch.arange(count)
        for action in range(len(plan.acting)):
            pairs = torch.stack([rows, torch.full((count,), action)], 1)
            value, _ = policy_rows.policy(config, studio, rollout, pairs, 1 / count / len(plan.acting))
            (found[f"{name} {action}"],) = torch.autograd.grad(value, model.theta)
        if name == "plain":
            value, _ = policy_rows.path(config, studio, rollout, rows, 1 / count)
            (found["path"],) = torch.autograd.grad(value, model.theta)
    slope = 2 * ((A + B) * model.theta.item() - GOAL)  # of the loss: minus the reward
    # four standard errors of the mean of (r - mean r) (a - theta) / s^2
    error = 4 * abs(slope) * A * math.sqrt(2 / count)
    assert abs(found["plain 0"].item() - A * slope) < error
    assert abs(found["path"].item() - B * slope) < 4 * 2 * A * B * SPREAD / math.sqrt(count)
    assert abs((found["plain 0"] + found["path"]).item() - (A + B) * slope) < 2 * error
    reward_std = abs(slope) * A * SPREAD
    assert abs(found["terminal 1"].item()) < 4 * reward_std * (A + B) / after.S / 2 / math.sqrt(count) * 2
    assert found["terminal 1"].item() != 0


def test_noise_after_the_end_has_no_gradient_on_average() -> None:
    """Once with z and once with -z behind the same picture: what they teach is nothing, whatever it is worth."""
    count, model = 64, Point()
    law = Coefficients(1, A, B, 0.1, A, B)
    plan = Plan(1.0, (Coefficients(9, 0, 1, SPREAD, 0, 1), Coefficients(1, A, B, 0.0, A, B)), law)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        states, log_probs, clean = plan.play(
            model.predict, torch.zeros(count, 1, 1, 1), model.embed([]), generator, 1, "mean"
        )
    other = states.clone()
    other[:, 2] = 2 * (A * states[:, 1] + B * model.theta.detach()) - states[:, 2]
    worth = torch.randn(count, generator=generator).repeat(2)
    drawn = Drawn(
        ["a"] * 2 * count, torch.cat([states, other]), log_probs.repeat(2, 1), clean.repeat(2, 1, 1, 1), worth
    )
    rollout = policy_value.Rollout(plan, drawn, worth, torch.ones_like(worth), torch.ones_like(worth), {})
    config = SimpleNamespace(beta=0, logprob_reduction="mean", clip_ratio=0.2, guidance_scale=1.0)
    studio: Any = SimpleNamespace(model=model, adapter=SimpleNamespace(trains_text=False), memory={})

    def taught(rows: Tensor) -> float:
        pairs = torch.stack([rows, torch.ones_like(rows)], 1)
        value, numbers = policy_rows.policy(config, studio, rollout, pairs, 1 / len(rows))
        assert float(numbers["ratio"]) == pytest.approx(1, abs=1e-5)
        return float(torch.autograd.grad(value, model.theta)[0])

    alone = taught(torch.arange(count))
    assert abs(alone) > 0.01
    assert abs(taught(torch.arange(2 * count))) < 1e-4 * abs(alone)


def scored(pictures: Tensor, *about: Any, update: bool = True) -> Scored:
    """Minus the squared distance of the one number that a picture is."""
    value = -(pictures[:, 0].flatten() - GOAL).square()
    return Scored(value, {}, torch.ones(len(pictures), dtype=torch.bool))


def test_the_path_joins_in_where_the_reward_has_a_gradient() -> None:
    one = run("rlcm", pathwise=1.0, steps=2)
    assert one.config.accumulate == 6 + 2
    ticks = list(one.ticks())
    assert values(ticks, "queries") == [16, 32]
    with pytest.raises(UsageError, match="has no gradient"):
        list(run("rlcm", reward="greyness", pathwise=1.0).ticks())


@pytest.mark.parametrize("settings", [{}, {"pathwise": 1.0, "logprob_reduction": "sum"}, {"group": 4}])
def test_the_reward_rises(settings: dict[str, Any]) -> None:
    one = run("rlcm", **{"steps": 30, "lr": 1e-2, "rollout": 16, "batch": 16, "sampler_steps": 3, **settings})
    rewards = torch.tensor(values(list(one.ticks()), "reward"))
    assert rewards[-5:].mean() > rewards[:5].mean() + 2 * rewards[:5].std()


def test_a_flag_for_the_roll_out_changes_what_follows_from_it() -> None:
    """The embedded model's studio.toml asks for another roll-out; the losses of a step are not taken from there."""
    from studio.flags import read

    words = ["rlcm", "--reward.terms", "jpeg-size", "--guard.every", "0"]
    usual, small = read(words)[0].settings, read([*words, "--rollout", "8"])[0].settings
    assert (small.rollout, small.accumulate) == (8, usual.accumulate * 8 // usual.rollout)  # type: ignore[attr-defined]
    assert read([*words, "--rollout", "8", "--accumulate", "4"])[0].settings.accumulate == 4
