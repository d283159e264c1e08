"""Rewards: the weighted mixture, its running deviations, what cannot be scored, and gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.pipelines import reward_loss, rewards_running
from studio.pipelines.errors import DataError, UsageError
from studio.pipelines.rewards import Reward, Rewards, build
from tests.plugins import install
from tests.reward_functions import SCORER
from tests.scorer_cases import CPU, pictures

F = "tests.reward_functions"
BRIGHT, CONTRAST, WORDS, DARK = (f"{F}:{name}" for name in ("brightness", "contrast", "words", "dark"))
PROMPTS = ["a", "a cat", "a red dog", "x", "a hat", "a red hat"]


def reward(*terms: str, differentiable: bool = False, **settings: Any) -> Reward:
    """A reward of these terms."""
    return build(Rewards(terms=terms, **settings), CPU, torch.float32, differentiable)


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A scorer of another package, of which less is better, that needs references."""
    monkeypatch.syspath_prepend(install(tmp_path, "gap", SCORER, "studio.scorers"))
    return "gap"


# the contract of pictures


def test_black_is_black_and_white_is_white():
    flat = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    assert reward(BRIGHT)(flat, ["", ""]).value.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (pictures(2, 8) * 2 - 1, "in 0..1, these reach from -"),
        (pictures(2, 8) * 255, "in 0..1, these reach"),
        ((pictures(2, 8) * 255).byte(), "torch.uint8"),
        (pictures(2, 8)[0], r"\[B, 3, H, W\]"),
        (pictures(2, 8)[:, :1], r"not \[2, 1, 8, 8\]"),
        (pictures(3, 8), "2 prompts for 3 pictures"),
        (pictures(2, 8)[:0], "0 pictures"),
    ],
)
def test_other_pictures_are_refused(images: Tensor, reason: str):
    with pytest.raises(DataError, match=reason):
        reward(BRIGHT)(images, ["a", "b"])


def test_rows_belong_together_whatever_their_order():
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    images, prompts = pictures(6, 16), PROMPTS
    one = reward(BRIGHT, f"0.3*{WORDS}", CONTRAST)
    first = one(images, prompts, None, {})
    other = one(images[order], [prompts[i] for i in order], None, {})
    torch.testing.assert_close(other.value, first.value[order])
    assert len(set(first.raw[WORDS].tolist())) > 2
    for name in one.names:
        torch.testing.assert_close(other.raw[name], first.raw[name][order])


# the mixture


def test_it_is_the_weighted_sum_of_raw_numbers():
    found = reward(f"2*{BRIGHT}", f"-0.5*{WORDS}", standardise="no")(pictures(6, 16), PROMPTS)
    assert set(found.raw) == {BRIGHT, WORDS}
    torch.testing.assert_close(found.value, 2 * found.raw[BRIGHT] - 0.5 * found.raw[WORDS])
    torch.testing.assert_close(found.raw[BRIGHT], pictures(6, 16).mean((1, 2, 3)))
    assert found.good.all()
    told = reward_loss.numbers(found)
    assert {name: told[f"reward/{name}"] for name in found.raw} == {n: row.mean() for n, row in found.raw.items()}


def test_less_is_better_counts_with_a_minus_once(gap: str):
    for weight in ("", "1*", "-1*"):
        found = reward(f"{weight}{gap}")(pictures(4, 16), PROMPTS[:4], [torch.ones(3, 8, 8)])
        torch.testing.assert_close(found.value, -found.raw["gap"])
        assert (found.raw["gap"] > 0).all()


def test_a_target_is_approached_from_both_sides():
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.5, 0.9)]).requires_grad_()
    found = reward(BRIGHT, target=0.6, differentiable=True)(images, ["a"] * 3)
    torch.testing.assert_close(found.value.detach(), torch.tensor([-0.5, -0.1, -0.3]))
    (gradient,) = torch.autograd.grad(found.value.sum(), images)
    assert gradient[:, 0, 0, 0].sign().tolist() == [1, 1, -1]


# running deviations


def test_terms_are_measured_in_deviations_of_everything_seen():
    one, memory = reward(f"2*{BRIGHT}", CONTRAST), dict[str, Any]()
    seen: list[Tensor] = []
    for seed in range(4):
        found = one(pictures(3, 16, seed), PROMPTS[:3], None, memory)
        seen.append(torch.stack([found.raw[name] for name in one.names]))
        whole = torch.cat(seen, 1).double()
        z = (seen[-1] - whole.mean(1, keepdim=True)) / whole.std(1, correction=0, keepdim=True)
        torch.testing.assert_close(found.value, (2 * z[0] + z[1]).float(), atol=1e-4, rtol=1e-4)


def test_a_terms_unit_does_not_count():
    values = torch.rand(50, 4, dtype=torch.float64)
    plain, scaled = dict[str, Any](), dict[str, Any]()
    for batch in values:
        rewards_running.update(plain, batch)
        rewards_running.update(scaled, 1e6 * batch - 3e7)
    (mean, deviation), (other, wide) = rewards_running.scale(plain), rewards_running.scale(scaled)
    batch = values[0]
    torch.testing.assert_close((batch - mean) / deviation, (1e6 * batch - 3e7 - other) / wide)


def test_batches_of_any_size_give_the_moments_of_the_whole():
    values = 1e4 + torch.rand(60, dtype=torch.float64)
    for sizes in ([60], [1] * 60, [7, 20, 1, 0, 32]):
        state: dict[str, Any] = {}
        for chunk in values.split(sizes):
            rewards_running.update(state, chunk)
        assert state["count"] == 60
        assert rewards_running.scale(state) == pytest.approx((values.mean().item(), values.std(correction=0).item()))


def test_values_that_do_not_differ_are_not_divided():
    state: dict[str, Any] = {}
    assert rewards_running.scale(state) == (0, 1)
    for values in (torch.tensor([7.0]), torch.tensor([7.0, 7.0 + 1e-6])):
        rewards_running.update(state, values)
        assert rewards_running.scale(state)[1] == 1


def test_what_is_kept_goes_through_a_file_and_on_exactly():
    batches = [pictures(3, 16, seed) for seed in range(6)]
    straight: dict[str, Any] = {}
    wanted = [reward(BRIGHT, CONTRAST)(batch, PROMPTS[:3], None, straight).value for batch in batches]
    memory: dict[str, Any] = {}
    for batch in batches[:3]:
        reward(BRIGHT, CONTRAST)(batch, PROMPTS[:3], None, memory)
    memory = json.loads(json.dumps(memory))
    found = [reward(BRIGHT, CONTRAST)(batch, PROMPTS[:3], None, memory).value for batch in batches[3:]]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted[3:], strict=True))
    assert memory == straight


def test_looking_does_not_count():
    one, memory = reward(BRIGHT, CONTRAST), dict[str, Any]()
    first = one(pictures(3, 16), PROMPTS[:3], None, memory)
    kept = json.dumps(memory)
    again = one(pictures(3, 16), PROMPTS[:3], None, memory, update=False)
    torch.testing.assert_close(again.value, first.value)
    one(pictures(3, 16, 5), PROMPTS[:3], None, memory, update=False)
    plain = one(pictures(3, 16, 5), PROMPTS[:3])
    torch.testing.assert_close(plain.value, plain.raw[BRIGHT] + plain.raw[CONTRAST])
    assert json.dumps(memory) == kept
    single: dict[str, Any] = {}
    reward(BRIGHT)(pictures(3, 16), PROMPTS[:3], None, single)
    assert single == {}, "one term is not standardised"


# what cannot be scored


def test_a_row_that_a_term_cannot_score_is_left_out_and_never_in_the_statistics():
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.9, 0.4, 0.2)])
    images[3, 0, 0, 0] = torch.nan
    images.requires_grad_()
    memory: dict[str, Any] = {}
    found = reward(DARK, BRIGHT, differentiable=True)(images, ["a"] * 4, None, memory)
    assert found.good.tolist() == [True, False, True, False]
    assert found.value.isnan().tolist() == [False, True, False, True]
    assert found.raw[BRIGHT].isnan().tolist() == [False, False, False, True]
    state = memory["reward"]
    assert (state[DARK]["count"], state[BRIGHT]["count"]) == (2, 3)
    assert state[DARK]["mean"] == pytest.approx(0.25)
    assert reward_loss.numbers(found)["unscored"] == 0.5
    torch.testing.assert_close(found.mean, found.value[found.good].mean())
    (gradient,) = torch.autograd.grad(found.mean, images)
    assert gradient.isfinite().all()
    assert (gradient[[0, 2]] > 0).all()
    assert (gradient[[1, 3]] == 0).all()


def test_nothing_to_score_is_no_number_and_no_gradient():
    images = torch.full((2, 3, 4, 4), torch.nan, requires_grad=True)
    found = reward(DARK, BRIGHT, differentiable=True)(images, ["a"] * 2, None, {})
    assert not found.good.any()
    assert found.mean.item() == 0
    assert reward_loss.numbers(found)["unscored"] == 1


def test_a_picture_of_nothing_does_not_change_its_prompts_diversity():
    images = pictures(4, 64)
    hurt = torch.cat([images, torch.full_like(images[:1], torch.nan)])
    one = reward("diversity(family=traits)")
    wanted = one(images, ["a fox"] * 3 + ["a dog"])
    found = one(hurt, ["a fox"] * 3 + ["a dog", "a fox"])
    assert wanted.good.tolist() == [True] * 3 + [False]
    torch.testing.assert_close(found.value[:3], wanted.value[:3])
    assert not found.good[3:].any()


# references


def test_references_go_to_those_that_need_them_only(gap: str, monkeypatch: pytest.MonkeyPatch):
    one, got = reward(gap, "colourfulness"), dict[str, Any]()
    assert one.needs == {"references"}
    for part in one.terms:
        real, name = type(part.scorer).__call__, part.term.label

        def spy(scorer: Any, *given: Any, real: Any = real, name: str = name) -> Tensor:
            got[name] = given[2]
            return real(scorer, *given)

        monkeypatch.setattr(type(part.scorer), "__call__", spy)
    near = [torch.ones(3, 8, 8)]
    one(pictures(2, 16), ["a", "b"], near)
    assert got["colourfulness"] is None
    assert got["gap"] is near


@pytest.mark.parametrize("near", [None, []])
def test_references_that_are_missing_are_asked_for(gap: str, near: list[Tensor] | None):
    with pytest.raises(DataError, match="'2\\*gap' compares with pictures of the subject.*give a folder") as caught:
        reward(BRIGHT, f"2*{gap}")(pictures(2, 16), ["a", "b"], near)
    assert "\n" not in str(caught.value)


# gradients


def test_a_gradient_is_the_weighted_terms_own():
    images = pictures(3, 16).requires_grad_()
    memory: dict[str, Any] = {}
    found = reward(f"2*{BRIGHT}", f"-3*{CONTRAST}", differentiable=True)(images, PROMPTS[:3], None, memory)
    (gradient,) = torch.autograd.grad(found.value.sum(), images)
    scales = [rewards_running.scale(memory["reward"][name])[1] for name in (BRIGHT, CONTRAST)]
    by_hand = 2 * images.mean((1, 2, 3)) / scales[0] - 3000 * images.flatten(1).var(1) / scales[1]
    (wanted,) = torch.autograd.grad(by_hand.sum(), images)
    torch.testing.assert_close(gradient, wanted)
    assert not any(values.requires_grad for values in found.raw.values())


def test_without_leave_there_is_no_graph():
    images = pictures(3, 16).requires_grad_()
    assert not reward(BRIGHT)(images, PROMPTS[:3]).value.requires_grad
    with torch.no_grad():
        assert not reward(BRIGHT, differentiable=True)(images, PROMPTS[:3]).value.requires_grad


def test_half_precision_around_it_changes_no_number():
    one = reward("jpeg-soft-bits", "embedded-wish(wish=colour=teal)", differentiable=True)
    images = pictures(3, 64)
    wanted = one(images, PROMPTS[:3])
    with torch.autocast("cpu", torch.bfloat16):
        half = images @ torch.eye(64)
        found = one(images, PROMPTS[:3])
        whole = one(half, PROMPTS[:3])
    assert torch.equal(found.value, wanted.value)
    assert half.dtype is torch.bfloat16
    assert whole.value.dtype is torch.float32


def test_a_prompt_that_is_not_read_to_its_end_is_said_once():
    one, long = reward("embedded-prompt", "colourfulness"), "a red dog on the cat " * 20
    (said,) = one(pictures(2, 64), [long, "a cat"]).warnings
    assert "are not scored" in said
    assert one(pictures(2, 64), ["a cat", long]).warnings == ()


@pytest.mark.parametrize(
    ("term", "advice"),
    [
        ("jpeg-size", "use jpeg-soft-bits, or a trainer that needs none"),
        ("jpeg-size(quality=50)", "use jpeg-soft-bits"),
        ("embedded-attributes", "use embedded-stated"),
        (WORDS, r"set words\.differentiable = True"),
        ("http://127.0.0.1:9/judge", "use another term"),
    ],
)
def test_a_term_without_gradient_is_refused_where_one_is_followed(term: str, advice: str):
    with pytest.raises(UsageError, match=advice) as caught:
        reward(BRIGHT, term, differentiable=True)
    assert "\n" not in str(caught.value)
    assert not reward(BRIGHT, term).differentiable


# several processes

SHARED = """
import json, os, sys
import torch
from studio.pipelines import reward_loss, rewards_running

child = os.fork()
rank = 0 if child else 1
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meet", rank=rank, world_size=2)
state = {}
for values in ([[1.0, 2.0], [5.0, float("nan")]], [[7.0], [8.0, 9.0, 3.0]], [[float("nan")], [4.0]]):
    rewards_running.update(state, torch.tensor(values[rank]))
open(f"{sys.argv[1]}/{rank}.json", "w").write(json.dumps(state))
torch.distributed.destroy_process_group()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_processes_share_their_moments(tmp_path: Path, root: Path):
    options = {**os.environ, "PYTHONPATH": str(root), "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, "-c", SHARED, str(tmp_path)], env=options, check=True, timeout=60)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == other
    values = torch.tensor([1.0, 2, 5, 7, 8, 9, 3, 4], dtype=torch.float64)
    assert one["count"] == len(values)
    assert rewards_running.scale(one) == pytest.approx((values.mean().item(), values.std(correction=0).item()))
