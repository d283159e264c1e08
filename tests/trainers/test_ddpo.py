"""DDPO's laws: DDIM with noise as a policy, guidance inside, and Flow-GRPO's on flow models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from studio.pipelines.errors import UsageError
from studio.trainers import ddpo, policy_rows
from tests.models import backbone
from tests.policies import disturb, first, gradients, run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_all_steps_with_noise_are_learnt_from_and_the_first_ratio_is_one() -> None:
    """With guidance 5, two predictions a step, in roll-outs and in learning."""
    one = run("ddpo", steps=2, lr=1e-3)
    asked: list[int] = []
    forward = one.model.net.forward

    def watched(x: Tensor, *about: Any) -> Tensor:
        asked.append(len(x))
        return forward(x, *about)

    one.model.net.forward = watched  # type: ignore[method-assign]
    ticks = list(one.ticks())
    assert max(asked) == 8
    assert [tick.numbers["ratio"] for tick in ticks] == pytest.approx([1, 1], abs=2e-6)
    rollout = run("ddpo").lessons().roll_out()
    assert rollout.drawn.log_probs.shape == (8, 3)  # of 4 steps, the toy's last ends at alpha = 1
    assert rollout.drawn.log_probs.isfinite().all()


def test_fewer_actions_than_losses_are_made_up_for() -> None:
    """batch = 1: 8 x 4 losses, 8 x 3 pairs; the others weigh nothing, and the step is the mean all the same."""
    one = run("ddpo", batch=1, guidance_scale=1.0)
    disturb(one.adapter)
    losses = first(one.losses, 32)
    assert one.config.accumulate == 32
    assert sum(float(loss.numbers["ratio"]) == 0 for loss in losses) == 8
    assert sum(float(loss.numbers["ratio"]) for loss in losses) / 32 == pytest.approx(1, abs=1e-6)
    assert [loss.safe for loss in losses] == [True] * 32
    assert losses[0].value.requires_grad


def test_guidance_is_inside_the_gradient() -> None:
    """The gradient reaches the weights through the prediction without a prompt as well."""
    found = []
    for scale in (1.0, 5.0):
        one = run("ddpo", guidance_scale=scale)
        disturb(one.adapter)
        lessons = one.lessons()
        rollout = lessons.roll_out()
        pairs = rollout.pairs(3, torch.Generator().manual_seed(0))
        value, numbers = policy_rows.policy(one.config, lessons.studio, rollout, pairs, 1 / len(pairs))
        assert float(numbers["ratio"]) == pytest.approx(1, abs=2e-6)
        found.append(gradients(one.adapter, value))
    assert any(not torch.allclose(one, two, rtol=1e-2) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eta": 0}, "no density and no action to learn; use 1 .*alignprop"),
        ({"sampler_steps": 1}, "one step has no action to learn; use 2 or more, or the trainer alignprop"),
        ({"accumulate": 3}, "accumulate = 3: .*needs 8"),
    ],
)
def test_what_has_no_policy_gradient_is_refused(settings: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        run("ddpo", **settings)


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("lcm", "auto, ddim; for lcm and tcd there is the trainer rlcm"),
        ("sde", "auto, ddim; sde and dance are for flow models$"),
        ("euler", "auto, ddim$"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused(sampler: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run("ddpo", sampler=sampler)


def test_published_settings() -> None:
    config = ddpo.Config()
    assert (config.eta, config.clip_ratio, config.adv_clip, config.guidance_scale) == (1.0, 1e-4, 5.0, 5.0)
    assert config.accumulate == 16 * 50 / 4


def test_kl_in_the_reward_and_in_the_loss() -> None:
    """Carve3D's is nothing at the start; DPOK's is told."""
    one = run("ddpo", kl_reward=0.2, beta=0.01, steps=3, lr=1e-2, guidance_scale=1.0)
    ticks = list(one.ticks())
    assert [tick.numbers["policy_kl"] > 0 for tick in ticks] == [False, True, True]
    assert all(apart == 0 for known in one.memory["policy"]["log-ratios"].values() for apart in known[:2])
    assert any(apart != 0 for known in one.memory["policy"]["log-ratios"].values() for apart in known)


@pytest.mark.parametrize(("sampler", "level"), [("auto", None), ("dance", None), ("sde", 0.4)])
def test_flow_models_learn_by_their_sde_and_by_groups(sampler: str, level: float | None, made: Path) -> None:
    settings = {"sampler": sampler, "level": level, "group": 4, "batch": 4, "rollout": 8, "guidance_scale": 1.0}
    one = run("ddpo", name="tiny-sd3", folder=made, **settings)
    disturb(one.adapter)
    rollout = one.lessons().roll_out()
    assert rollout.plan.acting.tolist() == [0, 1, 2]
    assert rollout.plan.steps[-1].S == 0
    for prompt in set(rollout.drawn.prompts):
        rows = torch.tensor([other == prompt for other in rollout.drawn.prompts])
        assert rows.sum() == 4
        assert rollout.advantages[rows].sum().abs() < 1e-4
    loss = first(one.losses, 1)[0]
    share = round(float(loss.numbers["ratio"]))
    assert float(loss.numbers["ratio"]) == pytest.approx(share, rel=2e-5)
    assert loss.value.requires_grad


def test_two_steps_of_a_roll_out_on_a_flow_model(made: Path) -> None:
    """Flow-GRPO's two optimizer steps: the ratio counts in the second."""
    one = run(
        "ddpo", name="tiny-sd3", folder=made, group=4, updates=2, steps=2, sampler_steps=3, guidance_scale=2.0,
        lr=1e-2, beta=0.04,
    )  # fmt: skip
    ticks = list(one.ticks())
    assert [tick.safe for tick in ticks] == [False, True]
    assert ticks[0].numbers["ratio"] == pytest.approx(1, abs=1e-5)
    assert ticks[1].numbers["approx_kl"] > 10 * ticks[0].numbers["approx_kl"]
    assert ticks[0].numbers["policy_kl"] == 0 < ticks[1].numbers["policy_kl"]


def test_a_group_may_start_from_the_same_noise() -> None:
    found = [run("ddpo", group=4, same_start=same).lessons().roll_out().drawn for same in (False, True)]
    for drawn, same in zip(found, (False, True), strict=True):
        for prompt in set(drawn.prompts):
            starts = drawn.states[[other == prompt for other in drawn.prompts], 0]
            assert torch.equal(starts, starts[:1].expand_as(starts)) == same
            assert not torch.equal(drawn.states[0, 1], drawn.states[len(found), 1])


def test_a_share_of_the_steps() -> None:
    one = run("ddpo", train_share=0.5, guidance_scale=1.0, steps=1)
    assert one.config.accumulate == 4
    (tick,) = one.ticks()
    assert tick.numbers["ratio"] == pytest.approx(1, abs=1e-6)


def test_a_text_encoder_that_learns_is_asked_again(made: Path) -> None:
    """Embeddings kept from the roll-out would cut its gradient off."""
    adapter = {"rank": 2, "text_encoder": True}
    one = run("ddpo", name="tiny-sd-eps", folder=made, adapter=adapter, rollout=4, sampler_steps=3)
    disturb(one.adapter)
    loss = first(one.losses, 1)[0]
    names = [name for name in one.adapter.named_parameters() if name.startswith("text_encoder.")]
    found = dict(zip(one.adapter.named_parameters(), gradients(one.adapter, loss.value), strict=True))
    assert names
    assert all(found[name].abs().max() > 0 for name in names if "lora" in name)


def test_the_reward_rises() -> None:
    one = run("ddpo", steps=30, lr=1e-2, rollout=16, batch=16, sampler_steps=4, guidance_scale=1.0)
    rewards = torch.tensor([tick.numbers["reward"] for tick in one.ticks()])
    assert rewards[-5:].mean() > rewards[:5].mean() + 2 * rewards[:5].std()


def test_its_adapter_is_measured_against_the_base_it_can_switch_to(made: Path) -> None:
    """The toy is loaded anew in each run; the KL of a fresh adapter is exactly nothing."""
    assert first(run("ddpo", beta=1.0).losses, 1)[0].numbers["policy_kl"] == 0
    assert backbone("toy", made).adapter is None
