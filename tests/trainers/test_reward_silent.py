"""A run by rewards of which nothing can be scored does not end as if it had learnt."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.config import RunConfig, make
from studio.loop import Tick
from studio.pipelines import reward_doubts
from studio.pipelines.errors import ModelError
from studio.pipelines.reward_doubts import MOST
from studio.store import Run
from studio.train import train
from tests.alignprop import lesson
from tests.policies import run

NEVER = "tests.reward_functions:never"
EMPTY, HALF = {"unscored": 1.0}, {"unscored": 0.5}  # means of two processes: nothing in both, nothing in one


class Fickle:
    """A judge that scores as many batches as are `left`."""

    left, differentiable = 0, True

    def __call__(self, images: Tensor, prompts: list[str], references: Any) -> Tensor:
        self.left -= 1
        return images.mean((1, 2, 3)) * (1.0 if self.left >= 0 else torch.nan)


fickle = Fickle()
FICKLE = f"{__name__}:fickle"


def silent(trainer: str, steps: int) -> Any:
    if trainer == "alignprop":
        return lesson(prompts={"texts": ["a cat"]}, reward={"terms": ["tests.alignprop:only_dogs"]}, steps=steps)
    return run(trainer, NEVER, steps=steps)


def until_it_fails(ticks: Iterator[Tick]) -> tuple[list[int], str]:
    """The steps that were taken, and what the run then failed with."""
    steps = list[int]()
    with pytest.raises(ModelError) as caught:
        steps.extend(tick.step for tick in ticks)
    return steps, str(caught.value)


def config(folder: Path, steps: int) -> RunConfig:
    settings = {
        "steps": steps, "batch": 2, "rollout": 4, "sampler_steps": 2, "precision": "no", "previews": {"steps": 2},
        "adapter": {"rank": 2}, "guard": {"every": 0}, "prompts": {"texts": ["a cat"]}, "reward": {"terms": [FICKLE]},
    }  # fmt: skip
    return make("ddpo", flags={"model": "toy", "run": "one", "runs": folder, "settings": settings})


@pytest.mark.parametrize("trainer", ["alignprop", "rlcm", "ddpo"])
@pytest.mark.parametrize("steps", [2, 50])
def test_a_judge_that_scores_nothing_ends_the_run(trainer: str, steps: int) -> None:
    taken, said = until_it_fails(silent(trainer, steps).ticks())
    assert taken == list(range(1, min(steps, MOST) + 1))
    assert said.startswith("reward.terms: no picture of ")
    assert "gave no number" in said
    assert "\n" not in said


def test_a_run_stopped_on_the_way_ends_where_it_would_have_ended() -> None:
    state = list(islice(run("rlcm", NEVER, steps=50).ticks(), 4))[-1].state()
    taken, _ = until_it_fails(run("rlcm", NEVER, steps=50).ticks(start=4, state=state))
    assert taken == list(range(5, MOST + 1))


def test_what_is_scored_in_one_process_keeps_all_going() -> None:
    memory: dict[str, Any] = {}
    for numbers in [*[EMPTY] * (MOST - 1), HALF, *[EMPTY] * (MOST - 1)]:
        reward_doubts.unscored(numbers, "batch", memory)
        assert reward_doubts.lost([], "batch", memory, last=False) is None
    assert reward_doubts.lost([], "batch", memory, last=True) is None
    reward_doubts.unscored(EMPTY, "batch", memory)
    assert reward_doubts.lost([], "batch", memory, last=False) is not None


def test_what_was_learnt_is_kept_and_a_mended_judge_goes_on(tmp_path: Path) -> None:
    fickle.left, wanted = 2, config(tmp_path, MOST + 4)
    with pytest.raises(ModelError, match=FICKLE) as caught:
        train(wanted)
    assert caught.value.exit_code == 6
    kept = Run(tmp_path / "one")
    assert kept.state() == "unfinished"
    assert kept.done_steps() == MOST + 2
    fickle.left = 100
    assert Run(train(wanted)).state() == "done"


def test_a_short_run_without_any_score_is_not_done_until_something_is_scored(tmp_path: Path) -> None:
    fickle.left, wanted = 0, config(tmp_path, 2)
    for _ in range(2):
        with pytest.raises(ModelError, match="of the whole run"):
            train(wanted)
    fickle.left = 100
    found = Run(train(wanted))
    assert found.state() == "done"
    assert all(value == value for value in list(found.curve("reward").values())[-2:])


def test_a_short_run_with_one_score_is_done(tmp_path: Path) -> None:
    fickle.left = 1
    assert Run(train(config(tmp_path, 3))).state() == "done"


@pytest.mark.parametrize("steps", [2, MOST + 4])
def test_nor_does_distillation_beside_whose_reward_nothing_is_scored(steps: int, tmp_path: Path) -> None:
    settings = {
        "steps": steps, "batch": 2, "precision": "no", "previews": {"steps": 2}, "adapter": {"rank": 2}, "beta": 0.1,
        "drawn": {"pictures": 4, "sampler_steps": 2}, "reward": {"terms": [FICKLE]},
    }  # fmt: skip
    wanted = make("lcm", flags={"model": "toy", "run": "one", "runs": tmp_path, "settings": settings})
    fickle.left = 0
    with pytest.raises(ModelError, match=FICKLE):
        train(wanted)
    found = Run(tmp_path / "one")
    assert found.done_steps() == (MOST if steps > MOST else 0)  # the last step is not done before it is learnt from
    told = [
        event for event in found.events() if event.event == "warning" and "could be scored" in str(event.get("message"))
    ]
    assert len(told) == 1
    fickle.left = 100
    assert Run(train(wanted)).state() == "done"
