"""What of a run by rewards is wrong from the beginning is said before anything is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.basis import differences, numbers
from studio.config import RunConfig, make
from studio.pipelines import hub, rewards
from studio.pipelines.encoders import files
from studio.pipelines.errors import StudioError
from studio.store import Run
from studio.train import train
from tests import runs

SMALL: dict[str, Any] = {
    "steps": 2,
    "batch": 2,
    "precision": "no",
    "previews": {"steps": 2},
    "adapter": {"rank": 2},
}
REWARDED = {**SMALL, "sampler_steps": 2, "guard": {"every": 0}, "prompts": {"texts": ["a cat", "a dog"]}}
POLICY = {**REWARDED, "rollout": 4, "reward": {"terms": ["jpeg-size"]}}

PROMPTS = {"texts": ["a cat", "a dog"], "held_out": ["a bird"]}


def config(folder: Path, trainer: str, **settings: Any) -> RunConfig:
    usual = SMALL if trainer == "lcm" else POLICY if trainer in ("rlcm", "ddpo") else REWARDED
    return make(trainer, flags={"model": "toy", "run": "one", "runs": folder, "settings": {**usual, **settings}})


def wish(*terms: str) -> dict[str, Any]:
    return {"terms": list(terms)}


GIVEN = wish("jpeg-soft-bits")
SEEN = "compares with pictures of the subject, and there are none"
MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("alignprop", {}, "reward.terms is empty"),
    ("alignprop", {"reward": wish("jpeg-sofd-bits")}, "did you mean 'jpeg-soft-bits'"),
    ("alignprop", {"reward": wish("jpeg-size")}, "has no gradient.*use jpeg-soft-bits"),
    ("alignprop", {"reward": wish("embedded-wish(wish=colour=tael)")}, "did you mean 'teal'"),
    ("alignprop", {"reward": wish("embedded-wish(wish=colour=mauve)")}, "no colour 'mauve' .there are: .*teal"),
    ("alignprop", {"reward": wish("tests.reward_functions:nothing")}, "has no function 'nothing'"),
    ("alignprop", {"reward": wish("tests.nowhere:cute")}, "does not import"),
    ("alignprop", {"reward": GIVEN, "guard": {"terms": ["hsp"]}}, "guard.terms: .*did you mean 'hps'"),
    ("alignprop", {"reward": wish("clip-i")}, SEEN),
    ("alignprop", {"reward": wish("clip-t")}, "reward term 'clip-t': encoder openai/.*: not cached, and the hub"),
    ("alignprop", {"reward": wish("clip-t(encoder=/nowhere/clip)")}, "encoder '/nowhere/clip': no such folder"),
    ("ddpo", {"reward": wish("hps-v2.1")}, "reward term 'hps-v2.1': encoder xswu/HPSv2.*: not cached"),
    ("ddpo", {"reward": wish("jpeg-size"), "guard": {"terms": ["clip-t"]}}, "guard.terms: .*: not cached"),
    ("alignprop", {"reward": GIVEN, "sampler": "lmc"}, "sampler"),
    ("alignprop", {"reward": GIVEN, "prompts": {"file": "nowhere.txt"}}, "prompts.file"),
    (
        "ddpo",
        {"reward": wish("http://judge:8/score?key=abcdefgh1234")},
        "holds what looks like a password",
    ),
    ("rlcm", {"timesteps": [900, 500, 100]}, "3 of them for sampler_steps = 2"),
    ("rlcm", {"reward": wish("hsp")}, "did you mean 'hps'"),
    ("rlcm", {"pathwise": 1.0}, "has no gradient"),
    ("ddpo", {"sampler": "lcm"}, "there is the trainer rlcm"),
    ("ddpo", {"sampler": "sde"}, "auto, ddim; sde and dance are for flow models"),
    ("rlcm", {"start": Path("lcm:nope")}, "start: lcm:nope is not there; .*lcm:embedded"),
    ("ddpo", {"reward": wish()}, "reward.terms is empty"),
    ("lcm", {"reward": GIVEN}, "reward.terms does nothing with beta = 0: give --beta"),
    ("lcm", {"beta": 0.1}, "reward.terms is empty"),
    ("lcm", {"beta": 0.1, "reward": wish("jpeg-size")}, "has no gradient"),
]


@pytest.mark.parametrize(("trainer", "settings", "said"), MISTAKES)
def test_nothing_is_written(trainer: str, settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=said) as caught:
        train(config(tmp_path / "runs", trainer, **settings))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_can_be_downloaded_or_is_loaded_is_not_refused_and_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(source: str, revision: str, patterns: list[str], cached: bool) -> str:
        assert cached
        return "not here"

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(files, "fetched", asked)
    wanted = rewards.Rewards(terms=("clip-t", "hps-v2.1", "pickscore", "embedded-prompt", "jpeg-size"))
    rewards.build(wanted, torch.device("cpu"), torch.float32).expected()


def test_a_setting_that_follows_from_others_is_no_change_of_its_own(tmp_path: Path) -> None:
    old, new, given = (numbers(config(tmp_path, "ddpo", **more)) for more in ({}, {"rollout": 8}, {"accumulate": 5}))
    assert old["settings.accumulate"] != new["settings.accumulate"]
    assert differences(old, new) == ["rollout: 4 -> 8"]
    assert differences(old, given) == ["accumulate: 4 -> 5"]


def test_a_run_that_failed_before_its_first_step_may_be_another(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="broken"):
        train(config(tmp_path, "ddpo", reward=wish("tests.reward_functions:broken")))
    assert not Run(tmp_path / "one").begun()
    run = Run(train(config(tmp_path, "ddpo", lr=1e-3)))
    assert run.begun()
    with pytest.raises(StudioError, match="made otherwise"):
        train(config(tmp_path, "ddpo", lr=1e-2, steps=4))


def test_a_finished_run_is_finished_although_its_judge_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge_that_goes.py").write_text(
        "def like(images, prompts, references):\n    return images.mean((1, 2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    wanted = config(tmp_path / "runs", "ddpo", reward=wish("judge_that_goes:like"))
    folder = train(wanted)
    (tmp_path / "judge_that_goes.py").unlink()
    monkeypatch.delitem(sys.modules, "judge_that_goes")
    assert train(wanted) == folder


def test_who_judges_is_said_with_the_first_step(tmp_path: Path) -> None:
    guard = {"every": 2, "pictures": 4, "prompts": 1}
    run = Run(train(config(tmp_path, "alignprop", reward=GIVEN, guard=guard, prompts=PROMPTS)))
    said = {event.get("message") or "": event.step for event in run.events() if event.event == "message"}
    assert [step for text, step in said.items() if "no held-out judge" in text] == [1]
    assert [step for text, step in said.items() if text.startswith("the guard looks at 4 pictures")] == [1]


def test_distillation_without_a_reward_needs_no_word_of_it(tmp_path: Path) -> None:
    data = {"folder": runs.pictures(tmp_path / "data")}
    assert train(config(tmp_path / "runs", "lcm", data=data, steps=1)).is_dir()
