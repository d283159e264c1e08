"""The guard's verdicts: what a fall is on any scale, what is missing, who judges, how different pictures are."""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from studio.pipelines import reward_guard_kl, rewards
from studio.pipelines.adapters import lora
from studio.pipelines.assets import assets_folder
from studio.pipelines.errors import UsageError
from studio.pipelines.reward_guard_aside import untouched
from studio.pipelines.reward_guard_change import change
from studio.pipelines.reward_guard_eye import shots
from studio.pipelines.reward_guard_judges import DRIFT, judges
from studio.pipelines.reward_guard_look import Look, unit
from studio.pipelines.reward_guard_variety import THUMBNAILS, Variety, variety
from studio.pipelines.reward_guard_verdict import SAME, Bounds
from studio.pipelines.toy import Toy
from studio.snapshot import State

CPU = torch.device("cpu")
SCORES = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6])
BOUNDS = Bounds(0.5, 0.8, 0.0, {"judge": 1.0})
needs_judges = pytest.mark.skipif(
    not (assets_folder() / "judges" / "config.json").is_file(), reason="the embedded judges are not built yet"
)


def look(step: int, scores: Tensor, trained: float = 0.0, **more: Any) -> Look:
    """A look with one judge."""
    return Look(step, torch.full((len(scores),), trained), held={"judge": scores}, **more)


def reasons(now: Look, peak: Look, start: Look | None = None, bounds: Bounds = BOUNDS) -> list[str]:
    return list(bounds.broken(now, peak, start or peak))


@pytest.mark.parametrize("shift", [0.0, 20.0, -1.0, -20.0])
@pytest.mark.parametrize("factor", [1.0, 1000.0, 0.001])
def test_neither_a_shift_nor_a_factor_of_a_score_changes_a_verdict(shift: float, factor: float) -> None:
    def scaled(scores: Tensor) -> Tensor:
        return (scores.double() + shift) * factor

    start = look(0, scaled(SCORES))
    spread = float(SCORES.std(correction=0))
    for part, bad in ((0.45, False), (0.55, True)):
        now = look(10, scaled(SCORES - part * spread))
        assert bool(reasons(now, start)) is bad
        assert change(now, start, start, {"judge": 2.0})[0] == pytest.approx(-part, rel=1e-4)
    up = look(10, scaled(SCORES + 0.1 * spread))
    assert BOUNDS.advance(up, start, start, start) == (True, True)


def test_where_less_is_better_a_rise_is_a_fall() -> None:
    start, now = look(0, SCORES), look(10, SCORES + 1)
    assert not reasons(now, start)
    assert reasons(now, start, bounds=Bounds(0.5, 0.8, 0.0, {"judge": -1.0}))


def test_a_fall_within_its_own_error_is_none() -> None:
    start = look(0, SCORES)
    noise = torch.tensor([3.0, -5.0, 4.0, -4.0, 3.0, -5.0, 4.0, -4.0])
    assert change(look(1, SCORES + noise), start, start, BOUNDS.weights)[0] < -0.5 * SAME
    assert not reasons(look(1, SCORES + noise), start)
    assert reasons(look(1, SCORES - 0.5), start)


def test_the_sentence_says_from_where_to_where() -> None:
    peak, now = look(40, SCORES, 1.0), look(60, SCORES - 0.5, 2.0)
    (said,) = reasons(now, peak)
    assert said == "held-out judge fell from 0.9 (step 40) to 0.4 while the trained reward rose from 1 to 2"


def test_the_sentence_says_where_less_is_better() -> None:
    peak, now = look(40, SCORES, 1.0), look(60, SCORES + 1, 2.0)
    (said,) = reasons(now, peak, bounds=Bounds(0.5, 0.8, 0.0, {"judge": -1.0}))
    assert said.startswith("held-out judge, of which less is better, rose from 0.9 (step 40) to 1.9 while")


def test_judges_count_by_their_weights_and_one_alone_for_a_picture_that_the_other_cannot_score() -> None:
    start = Look(0, SCORES, held={"a": SCORES, "b": SCORES})
    gap = unit(SCORES)
    now = Look(1, SCORES, held={"a": SCORES + gap, "b": SCORES - gap})
    assert change(now, start, start, {"a": 3.0, "b": 1.0})[0] == pytest.approx(0.5)
    blind = torch.full_like(SCORES, torch.nan)
    assert change(Look(1, SCORES, held={"a": SCORES + gap, "b": blind}), start, start, {"a": 3.0, "b": 1.0})[
        0
    ] == pytest.approx(1.0)


def test_scores_that_are_no_numbers_are_left_out_picture_by_picture() -> None:
    start = look(0, SCORES)
    half = torch.where(torch.arange(8) < 4, torch.nan, SCORES)
    # the mean of the others is higher, and yet nothing has changed
    assert change(look(1, half), start, start, BOUNDS.weights) == (0.0, 0.0)
    blind = look(1, torch.full_like(SCORES, torch.nan), 5.0)
    assert not reasons(blind, start)
    assert BOUNDS.advance(blind, start, start, start) == (False, False)
    assert "heldout/judge" not in blind.numbers()
    assert len(blind.silent()) == 1
    assert not start.silent()


def test_pictures_that_are_no_numbers_are_a_reason() -> None:
    start = look(0, SCORES)
    assert not reasons(look(1, SCORES, broken=3), start)
    assert reasons(look(1, SCORES, broken=4), start) == ["4 of 8 pictures hold values that are no numbers"]


def test_equal_scores_have_a_unit_all_the_same() -> None:
    assert unit(torch.zeros(4)) == 1
    assert unit(torch.full((4,), -20.0)) == pytest.approx(2)
    assert unit(torch.tensor([torch.nan])) == 1


@pytest.mark.parametrize("name", ["diversity", "diversity/across"])
def test_diversity_below_its_share_is_a_reason_and_zero_at_the_start_is_none(name: str) -> None:
    start = look(0, SCORES, spread={name: 0.5})
    assert not reasons(look(1, SCORES, spread={name: 0.41}), start)
    assert len(reasons(look(1, SCORES, spread={name: 0.39}), start)) == 1
    assert not reasons(look(1, SCORES, spread={name: 0.0}), start, bounds=Bounds(0.5, 0.0, 0.0, {"judge": 1.0}))
    assert not reasons(look(1, SCORES, spread={name: 0.0}), look(0, SCORES, spread={name: 0.0}))


def test_kl_above_its_bound_or_no_number_is_a_reason() -> None:
    bounds = Bounds(0.5, 0.8, 0.1, {"judge": 1.0})
    found = [len(reasons(look(1, SCORES, kl=kl), look(0, SCORES), bounds=bounds)) for kl in (0.1, 0.11, math.nan, None)]
    assert found == [0, 1, 1, 0]


def test_where_the_held_out_score_stays_the_look_with_the_higher_trained_reward_is_the_best() -> None:
    start = look(0, SCORES)
    gap = unit(SCORES)
    assert BOUNDS.advance(look(1, SCORES, 1.0), start, start, start) == (False, True)
    assert BOUNDS.advance(look(1, SCORES, -1.0), start, start, start) == (False, False)
    assert BOUNDS.advance(look(1, SCORES - 0.9 * SAME * gap, 1.0), start, start, start) == (False, True)
    assert BOUNDS.advance(look(1, SCORES - 1.1 * SAME * gap, 1.0), start, start, start) == (False, False)
    # many small falls do not add up: they are all from the peak
    peak, best = look(1, SCORES), look(2, SCORES - 0.9 * SAME * gap, 1.0)
    assert BOUNDS.advance(look(3, SCORES - 1.8 * SAME * gap, 2.0), peak, best, start) == (False, False)


def test_without_a_judge_the_trained_reward_decides_and_nothing_falls() -> None:
    bounds = Bounds(0.5, 0.8, 0.0, {})
    start, now = Look(0, SCORES), Look(1, SCORES + 1)
    assert not reasons(now, start, bounds=bounds)
    assert bounds.advance(now, start, start, start) == (False, True)


def test_a_reward_that_rises_while_two_judges_fall_may_be_cheated() -> None:
    bounds = Bounds(9.0, 0.8, 0.0, {"a": 1.0, "b": -1.0})
    start = Look(0, SCORES, held={"a": SCORES, "b": SCORES})
    gap = 0.2 * unit(SCORES)
    assert bounds.hacked(Look(1, SCORES + 1, held={"a": SCORES - gap, "b": SCORES + gap}), start, start) == ["a", "b"]
    assert not bounds.hacked(Look(1, SCORES - 1, held={"a": SCORES - gap, "b": SCORES + gap}), start, start)
    assert not bounds.hacked(Look(1, SCORES + 1, held={"a": SCORES - gap, "b": SCORES - gap}), start, start)


def test_at_the_end_a_clearly_better_look_is_named() -> None:
    start = look(0, SCORES)
    assert not BOUNDS.parting(look(9, SCORES - 0.01 * unit(SCORES)), start, start)
    (said,) = BOUNDS.parting(look(9, SCORES - 0.3 * unit(SCORES)), look(6, SCORES), start)
    assert said.startswith("step 6 was better than the last one: held-out judge fell from 0.9 (step 6)")


def test_a_look_goes_into_a_checkpoint_and_comes_back() -> None:
    one, state = look(3, SCORES, 1.0, spread={"diversity": 0.5}, kl=0.25, broken=1), State()
    state.put("memory", one.pack())
    again = Look.read(state.get("memory"))
    assert torch.equal(one.held["judge"], again.held["judge"])
    assert one.numbers() == again.numbers()
    assert (again.step, again.broken) == (3, 1)


def test_prompts_are_spread_over_the_list_and_come_equally_often() -> None:
    names = [f"{number}" for number in range(10)]
    prompts, seeds = shots(names, 8, 0, 5)
    assert prompts == ["0", "2", "5", "7"] * 2
    assert seeds == list(range(5, 13))
    assert shots(names[:1], 4, 0, 0)[0] == ["0"] * 4
    assert len(set(shots(names, 8, 8, 0)[0])) == 8
    with pytest.raises(UsageError, match="no prompt to look at"):
        shots([], 8, 0, 0)


def test_global_generators_go_on_where_they_were() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    with untouched():
        torch.rand(5), random.random(), np.random.rand(5)  # noqa: NPY002
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert (before[2] == after[2]).all()


def test_diversity_of_known_features() -> None:
    corners = torch.eye(4)[torch.tensor([0, 1, 2, 2])]
    found = Variety(lambda pictures: corners, "corners")(torch.zeros(4, 3, 8, 8), ["a", "a", "b", "b"])
    # 1 - cosine is 1 between different corners: 1 within a, 0 within b, 1 across
    assert found["diversity"] == pytest.approx(0.5)
    assert found["diversity/across"] == pytest.approx(1.0)
    assert found["vendi"] == pytest.approx(math.exp(-(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))))
    same = Variety(lambda pictures: torch.eye(4)[:1].repeat(4, 1), "one")(torch.zeros(4, 3, 8, 8), ["a", "a", "b", "b"])
    assert (same["diversity"], same["diversity/across"]) == (0, 0)
    assert same["vendi"] == pytest.approx(1)


def test_thumbnails_measure_half_the_mean_squared_difference_and_leave_out_what_is_no_number() -> None:
    pictures = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32), torch.full((3, 32, 32), torch.nan)])
    assert THUMBNAILS(pictures, ["a", "a", "a"]) == {"diversity": pytest.approx(0.5)}
    assert THUMBNAILS(pictures, ["a", "b", "c"]) == {"diversity/across": pytest.approx(0.5)}
    assert THUMBNAILS(pictures[:1], ["a"]) == {}


def test_nothing_is_downloaded_to_watch_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.pipelines.hub.reachable", lambda: pytest.fail("it asked the hub"))
    assert variety(False, CPU).name == THUMBNAILS.name
    found = judges((), ("tests.reward_functions:brightness",), False, CPU)
    assert found.weights == {DRIFT: -1.0}
    assert "no held-out judge is on this machine" in found.notes[0]
    assert not judges((), ("jpeg-size",), False, CPU).weights  # its own size is no judge of a size


def test_the_size_of_files_is_judged_by_how_far_it_is_from_the_start_either_way() -> None:
    plain, noisy = torch.full((2, 3, 32, 32), 0.5), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = judges((), (), False, CPU)
    held, start, _ = found(plain, ["a", "b"], None, None)
    assert held[DRIFT].tolist() == [0, 0]
    up, sizes, _ = found(noisy, ["a", "b"], None, start)
    down, _, _ = found(plain, ["a", "b"], None, sizes)
    assert torch.equal(up[DRIFT], down[DRIFT])
    assert (up[DRIFT] > 0.5).all()


def test_judges_that_a_person_names() -> None:
    found = judges(("2*tests.reward_functions:brightness",), ("tests.reward_functions:brightness",), False, CPU)
    assert found.weights == {"tests.reward_functions:brightness": 2.0}
    assert "is what is trained for" in found.notes[0]
    with pytest.raises(UsageError, match="nonsense"):
        judges(("nonsense",), (), False, CPU)


@needs_judges
@pytest.mark.parametrize(
    ("trained", "held"),
    [
        ("jpeg-size", ["embedded-prompt", "embedded-attributes"]),
        ("embedded-prompt", ["embedded-attributes"]),
        ("embedded-subject", ["embedded-attributes"]),
        ("embedded-attributes", ["embedded-prompt"]),
        ("embedded-wish(wish=colour=teal)", ["embedded-prompt"]),
    ],
)
def test_in_the_studios_own_world_another_encoder_judges(trained: str, held: list[str]) -> None:
    found = judges((), rewards.build(rewards.Rewards(terms=(trained,)), CPU, torch.float32).names, True, CPU)
    assert list(found.weights) == held
    assert not found.notes


@needs_judges
def test_in_the_studios_own_world_its_judges_see_diversity() -> None:
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = variety(True, CPU)
    assert found(pictures, ["a", "a"])["diversity"] > 0
    assert found(pictures[[0, 0]], ["a", "a"]) == {"diversity": 0.0, "vendi": pytest.approx(1)}


@pytest.mark.parametrize("sampler", ["auto", "lcm"])
def test_kl_is_zero_until_the_adapter_changes_something_and_grows_with_it(sampler: str) -> None:
    model = Toy()
    adapter = lora.Config(rank=2).build(model)

    def distance() -> float:
        return reward_guard_kl.distance(model, ["a cat", "a dog"], adapter.off, sampler=sampler)

    found = [distance()]
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    for strength in (0.5, 1.0):
        with adapter.scaled(strength):
            found.append(distance())
    assert 0 == found[0] < found[1] < found[2]
    assert distance() == found[2]
    assert reward_guard_kl.distance(model, ["a cat"], nullcontext) == 0  # what it began with is what it is
