"""Mixtures whose terms are measured in running deviations, against rewards of earlier roll-outs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.pipelines import policy_value, rewards, rewards_running
from studio.pipelines.policy_plan import Plan
from studio.pipelines.policy_rollout import Drawn
from studio.pipelines.policy_settings import Policy
from studio.pipelines.policy_value import Rollout
from studio.pipelines.rewards import Reward, Rewards, Scored
from studio.pipelines.schedules import Coefficients
from studio.snapshot import State
from tests.states import through_disk

TERMS = ("2*tests.policies:redness", "tests.policies:brightness")
NAMES = [*["still"] * 4, *["moving"] * 4]
PLAN = Plan(1.0, (Coefficients(0, 0, 0, 1, 0, 0),))


def mixture(**settings: Any) -> Reward:
    return rewards.build(Rewards(terms=TERMS, **settings), torch.device("cpu"), torch.float32)


def pictures(turn: int) -> Tensor:
    """Four that are the same in every roll-out, and four that get brighter."""
    still = torch.tensor([0.7, 0.2, 0.4]).view(1, 3, 1, 1).expand(4, 3, 2, 2)
    moving = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(turn)) * 0.3 + 0.15 * turn
    return torch.cat([still, moving])


def valued(scored: Scored, memory: dict[str, Any], raw: bool = True, **settings: Any) -> Rollout:
    zeros = torch.zeros(8, 1)
    drawn = Drawn(NAMES, zeros, zeros, zeros, zeros[:, 0])
    config = Policy(**{"min_count": 2, "adv_clip": 100.0, **settings})
    terms = scored.moving if raw else None
    return policy_value.valued(config, PLAN, drawn, scored.value, scored.good, ["still", "moving"], 8, memory, terms)


def test_a_prompt_of_one_reward_teaches_nothing_however_the_others_drift() -> None:
    one, memory, history, moving = mixture(), dict[str, Any](), dict[str, Any](), dict[str, Any]()
    apart = list[float]()
    for turn in range(5):
        scored = one(pictures(turn), NAMES, None, memory)
        found = valued(scored, history)
        assert found.advantages[:4].tolist() == [0] * 4
        assert found.gain[:4].tolist() == [0] * 4
        assert found.advantages[4:].abs().min() > 0
        apart.append(float(valued(scored, moving, raw=False).advantages[0]))
    assert max(map(abs, apart)) > 1  # what moving units made of it


def test_old_rewards_count_in_the_units_of_the_new() -> None:
    """The advantage is that of all raw numbers so far, each measured in the deviations of today."""
    one, memory, history, seen = mixture(), dict[str, Any](), dict[str, Any](), list[Tensor]()
    for turn in range(4):
        scored = one(pictures(turn), NAMES, None, memory)
        found = valued(scored, history)
        seen.append(torch.stack([scored.raw[name][4:] for name in one.names]).double())
        deviations = [rewards_running.scale(memory["reward"][name])[1] for name in one.names]
        whole = 2 * torch.cat(seen, 1)[0] / deviations[0] + torch.cat(seen, 1)[1] / deviations[1]
        wanted = (whole[-4:] - whole.mean()) / (whole.std(correction=0) + 1e-6)
        torch.testing.assert_close(found.advantages[4:].double(), wanted, atol=1e-5, rtol=1e-5)
    shown = sum(unit * raw for raw, unit in scored.moving.values())
    torch.testing.assert_close(scored.value - scored.value.mean(), shown - shown.mean(), atol=1e-4, rtol=1e-4)  # type: ignore[union-attr]


def test_a_group_is_of_one_moment_and_nothing_changes() -> None:
    scored = mixture()(pictures(1), NAMES, None, {})
    both = [valued(scored, {}, raw, advantages="group").advantages for raw in (True, False)]
    torch.testing.assert_close(*both, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("settings", [{"standardise": "no"}, {"standardise": "no", "target": 3.0}])
def test_units_that_stand_still_are_kept_as_they_were(settings: dict[str, Any]) -> None:
    """A checkpoint from before goes on to the last bit."""
    memory = {"rewards": {"still": [1.0, 2.0], "moving": [3.0]}}
    scored = mixture(**settings)(pictures(0), NAMES, None, {})
    assert scored.moving == {}
    assert policy_value.forgets(memory, scored.moving) == []
    valued(scored, memory)
    assert memory["rewards"]["still"] == [1.0, 2.0, *scored.value[:4].double().tolist()]
    assert memory.keys() == {"rewards"}


def test_rows_without_a_reward_are_not_kept() -> None:
    seen = pictures(0)
    seen[5] = torch.nan
    history: dict[str, Any] = {}
    found = valued(mixture()(seen, NAMES, None, {}), history)
    assert [len(history["rewards"][name]) for name in ("still", "moving")] == [4, 3]
    assert found.advantages.isfinite().all()
    assert found.advantages[5] == 0


def test_resumed_it_knows_all_it_knew(tmp_path: Path) -> None:
    one, memory, history = mixture(), dict[str, Any](), dict[str, Any]()
    for turn in range(3):
        valued(one(pictures(turn), NAMES, None, memory), history)
    state = State()
    state.put("memory", {"all": memory, "policy": history})
    again = through_disk(state, tmp_path).get("memory")
    assert again == {"all": memory, "policy": history}
    found = [
        valued(mixture()(pictures(3), NAMES, None, seen), kept).advantages
        for seen, kept in ((memory, history), (again["all"], again["policy"]))
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("terms", [None, ["a", "b"]])
def test_rewards_of_an_older_version_or_of_other_terms_are_forgotten_and_it_is_said(terms: list[str] | None) -> None:
    history: dict[str, Any] = {"rewards": {"still": [[9.0, 9.0]] if terms else [9.0], "gone": [1.0]}}
    history |= {"terms": terms} if terms else {}
    scored = mixture()(pictures(0), NAMES, None, {})
    (said,) = policy_value.forgets(history, scored.moving)
    assert "they are forgotten" in said
    valued(scored, history)
    assert {name: len(rows) for name, rows in history["rewards"].items()} == {"still": 4, "moving": 4}
    assert policy_value.forgets(history, scored.moving) == []
    valued(mixture(standardise="no")(pictures(0), NAMES, None, {}), history)
    assert all(isinstance(value, float) for rows in history["rewards"].values() for value in rows)
