"""The guard in whole runs: a cheated reward is stopped and undone, a good one is not, and nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio import loop
from studio.loop import Tick
from studio.pipelines import reward_guard
from studio.pipelines.adapters import lora
from studio.pipelines.data_prompts import PromptStream
from studio.pipelines.data_references import References
from studio.pipelines.toy import Toy
from studio.snapshot import State
from studio.trainers import alignprop, rewarded
from tests import reward_guard_functions as functions
from tests.states import differences, through_disk

WHITE, GREY = "tests.reward_functions:brightness", "tests.reward_guard_functions:moderate"
HELD = ["a fox", "a bear"]
LOOSE = {"every": 2, "pictures": 6, "fall": 1e6, "diversity": 0}


@dataclass
class Run:
    """A run of AlignProp on the toy: it is rewarded for white pictures."""

    settings: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        usual: dict[str, Any] = {
            "steps": 40, "batch": 2, "lr": 0.004, "precision": "no", "sampler_steps": 3, "guidance_scale": 1.0,
            "truncation": {"mode": "full"}, "reward": {"terms": (WHITE,)}, "guard": {"every": 4, "terms": (GREY,)},
        }  # fmt: skip
        self.config = alignprop.Config(**usual | self.settings)
        self.model = Toy()
        self.adapter = lora.Config(rank=2, dropout=0.2).build(self.model)
        lists = (["a cat", "a dog", "a hen"], HELD)
        self.weights[0] = {name: one.detach().clone() for name, one in self.adapter.state_dict().items()}
        self.stream = PromptStream(self.model, lists, References().read(self.model), batch=2, seed=0)

    def ticks(self, count: int = 0, **where: Any) -> list[Tick]:
        """The first of a run, all of them without a count."""
        losses = alignprop.losses(self.config, self.model, self.adapter, self.stream, self.memory)
        found = []
        for tick in loop.train(
            self.config, self.model, self.adapter, losses, self.memory, data=self.stream, **where
        ):  # fmt: skip
            self.weights[tick.step] = {name: one.detach().clone() for name, one in self.adapter.state_dict().items()}
            found.append(tick)
            if tick.step == count:
                break
        return found


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """The same bits."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def cheated() -> tuple[Run, list[Tick]]:
    """A run that trades the held-out score for the trained one; diversity is left to another test."""
    run = Run({"guard": {"every": 4, "terms": (GREY,), "diversity": 0}})
    return run, run.ticks()


def test_a_cheated_reward_is_stopped_and_the_best_look_comes_back_bit_for_bit(
    cheated: tuple[Run, list[Tick]],
) -> None:
    run, ticks = cheated
    last = ticks[-1]
    assert last.step < run.config.steps
    assert f"held-out {GREY} fell from" in last.stop
    assert "while the trained reward rose from" in last.stop
    best = int(last.numbers["guard/back"])
    assert last.stop.endswith(f": back to step {best}")
    assert 0 < best < last.step - 4  # it had risen, and fell for two looks in a row
    assert same(run.weights[last.step], run.weights[best])
    assert not same(run.weights[last.step], run.weights[last.step - 1])
    held = {tick.step: tick.numbers[f"heldout/{GREY}"] for tick in ticks if f"heldout/{GREY}" in tick.numbers}
    held[0] = ticks[3].numbers[f"start/heldout/{GREY}"]
    assert held[best] >= max(held.values()) - 0.02 * abs(max(held.values()))
    assert len(held) == last.step // 4 + 1


def watching(run: Run) -> reward_guard.Watch:
    """The guard of a run, made again."""
    studio = rewarded.bring(run.config, run.model, run.adapter, run.stream, run.memory, differentiable=True)
    assert studio.watch is not None
    return studio.watch


def test_what_is_seen_after_the_roll_back_is_the_best_look(cheated: tuple[Run, list[Tick]]) -> None:
    run, _ = cheated
    now, _, _ = watching(run).eye.look(0, run.memory["guard"])
    best = run.memory["guard"]["best_look"]
    assert torch.equal(now.held[GREY], best["held"][GREY])
    assert torch.equal(now.trained, best["trained"])
    assert now.kl == best["kl"]


def test_a_look_that_could_not_be_taken_in_time_is_taken_at_the_next_step() -> None:
    watch = watching(Run({"guard": {"every": 4}, "steps": 9}))
    watch.memory["guard"] = {"looked": 4}
    assert [watch.due(step) for step in (5, 7, 8, 9)] == [False, False, True, True]
    watch.memory["guard"]["looked"] = 2
    assert [watch.due(step) for step in (3, 5, 6)] == [False, True, True]
    watch.notes = ["who judges"]  # said with the next step, and no look is taken for it
    assert watch.due(3)
    assert watch.see(3) == reward_guard.Seen(messages=("who judges",))
    assert not watch.due(3)


def test_the_numbers_of_a_look(cheated: tuple[Run, list[Tick]]) -> None:
    _, ticks = cheated
    first = ticks[3].numbers
    wanted = {f"heldout/{GREY}", "reward/heldout-prompts", "diversity", "diversity/across", "kl", "guard/best"}
    assert wanted <= first.keys()
    assert first["start/kl"] == 0
    assert "start/kl" not in ticks[7].numbers
    assert not wanted & ticks[4].numbers.keys()
    assert "16 pictures of 2 held-out prompts every 4 steps" in " ".join(ticks[0].messages)
    assert not wanted & ticks[0].numbers.keys()
    assert not ticks[1].messages


def test_nothing_stops_a_run_whose_held_out_score_does_not_fall() -> None:
    run = Run({"steps": 12, "guard": {"every": 4, "terms": ("tests.reward_guard_functions:light",), "diversity": 0}})
    ticks = run.ticks()
    assert len(ticks) == 12
    assert not any(tick.stop for tick in ticks)
    assert ticks[-1].numbers["guard/best"] == 12
    assert not any("was better than the last" in text for text in ticks[-1].messages)


def test_what_is_exported_after_a_roll_back_is_the_best_look_where_weights_are_averaged_too() -> None:
    run = Run({"ema": 0.9, "guard": {"every": 4, "terms": (GREY,), "diversity": 0}})
    last = run.ticks()[-1]
    best = run.weights[int(last.numbers["guard/back"])]
    assert last.stop
    with last.averaged():
        assert same(dict(run.adapter.state_dict()), best)


def test_collapsed_diversity_stops_a_run() -> None:
    # the held-out judge is as easily cheated as the trained one
    run = Run({"guard": {"every": 4, "terms": ("tests.reward_guard_functions:light",), "patience": 1}})
    last = run.ticks()[-1]
    assert last.step < 40
    assert "differ by" in last.stop
    assert same(run.weights[last.step], run.weights[int(last.numbers["guard/back"])])


def test_a_bound_of_kl_stops_a_run() -> None:
    run = Run({"guard": {"every": 2, "terms": (GREY,), "diversity": 0, "fall": 1e6, "kl": 1e-3, "patience": 1}})
    last = run.ticks()[-1]
    assert "above the bound of 0.001" in last.stop
    assert last.numbers["kl"] > 1e-3


@pytest.mark.parametrize("terms", [("tests.reward_guard_functions:small",), ("tests.reward_guard_functions:offset",)])
def test_scores_below_zero_and_far_from_it_have_the_same_verdict(
    cheated: tuple[Run, list[Tick]], terms: tuple[str, ...]
) -> None:
    run = Run({"guard": {"every": 4, "terms": terms, "diversity": 0}})
    last = run.ticks()[-1]
    assert (last.step, last.numbers["guard/back"]) == (cheated[1][-1].step, cheated[1][-1].numbers["guard/back"])
    assert same(run.weights[last.step], cheated[0].weights[last.step])


def test_a_judge_that_can_score_nothing_is_said_and_stops_nothing() -> None:
    run = Run({"steps": 8, "guard": {"every": 4, "terms": ("tests.reward_guard_functions:blind",), "diversity": 0}})
    ticks = run.ticks()
    assert len(ticks) == 8
    assert any("could score none of the pictures" in text for text in (*ticks[3].warnings, *ticks[3].messages))


@pytest.mark.parametrize("at", [6, 8])
def test_stopped_and_resumed_it_says_and_does_the_same_and_does_not_begin_again(
    cheated: tuple[Run, list[Tick]], at: int, tmp_path: Path
) -> None:
    straight, ticks = cheated
    settings = {"guard": {"every": 4, "terms": (GREY,), "diversity": 0}}
    first = Run(settings)
    state: State = through_disk(first.ticks(at)[-1].state(), tmp_path)
    second = Run(settings)
    second.stream.position = first.stream.position
    functions.CALLS.clear()
    again = second.ticks(start=at, state=state)
    assert len(functions.CALLS) == len(range(4 * (at // 4) + 4, ticks[-1].step + 1, 4))  # none for the start
    assert again[-1].stop == ticks[-1].stop
    assert [tick.numbers for tick in again] == [tick.numbers for tick in ticks[at:]]
    assert not differences(again[-1].state(), ticks[-1].state())
    assert same(second.weights[again[-1].step], straight.weights[ticks[-1].step])


def test_it_changes_nothing_of_the_training() -> None:
    without = (plain := Run({"steps": 6, "guard": {"every": 0}})).ticks()
    beside = (watched := Run({"steps": 6, "guard": LOOSE})).ticks()  # made after the other, since dropout is random
    for left, right in zip(without, beside, strict=True):
        assert left.numbers.items() <= right.numbers.items()
        assert same(plain.weights[left.step], watched.weights[right.step])
    assert "diversity" in beside[1].numbers
    one, two = without[-1].state(), beside[-1].state()
    for state in (one, two):
        state.meta.pop("memory")
        state.tensors.pop("memory", None)
    assert not differences(one, two)


def test_several_terms_are_measured_in_the_starts_deviations() -> None:
    run = Run({"steps": 4, "reward": {"terms": (WHITE, "tests.reward_functions:contrast")}, "guard": LOOSE})
    first = run.ticks()[1].numbers
    assert first["start/reward/heldout-prompts"] == pytest.approx(0, abs=1e-5)
    assert first["reward/heldout-prompts"] != first["start/reward/heldout-prompts"]


def test_other_judges_after_a_stop_begin_anew_aloud(tmp_path: Path) -> None:
    first = Run({"steps": 4, "guard": LOOSE | {"terms": (GREY,)}})
    state = through_disk(first.ticks(2)[-1].state(), tmp_path)
    second = Run({"steps": 4, "guard": LOOSE | {"terms": (WHITE,)}})
    second.stream.position = 2
    said = [text for tick in second.ticks(start=2, state=state) for text in tick.messages]
    assert any("begins anew" in text for text in said)
    assert any("is what is trained for" in text for text in said)
