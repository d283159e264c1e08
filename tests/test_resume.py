"""Going on with a run: only with what it was made with, or with a change that was shown and accepted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.config import RunConfig, from_toml
from studio.events import Event
from studio.pipelines.errors import UsageError
from studio.pipelines.toy import Toy
from studio.store import Run
from studio.train import train
from tests import runs

EASY: dict[str, Any] = {"steps": 2, "previews": {"every": 0, "steps": 1}, "save_every": 0}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures and a run of two steps on them."""
    place = tmp_path_factory.mktemp("begun")
    train(runs.config(runs.pictures(place / "data"), place / "runs", **EASY))
    return place


@pytest.fixture
def place(begun: Path, tmp_path: Path) -> Path:
    """A copy of it: paths in run.toml are the first one's, only `data` is told anew."""
    shutil.copytree(begun / "runs", tmp_path / "runs")
    return tmp_path


def more(begun: Path, place: Path, **settings: Any) -> RunConfig:
    """Two steps more."""
    return runs.config(begun / "data", place / "runs", **{**EASY, "steps": 4, **settings})


@pytest.fixture
def spoilt(begun: Path) -> Any:
    """The pictures, changed for one test."""
    kept = {path: path.read_bytes() for path in (begun / "data").iterdir()}
    yield begun / "data"
    for path in (begun / "data").iterdir():
        path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)


def test_changed_pictures_are_named_refused_and_can_be_accepted(begun: Path, place: Path, spoilt: Path):
    runs.pictures(place / "other", 4)
    (spoilt / "0.txt").write_text("a {trigger} on a hill")
    shutil.copy(place / "other" / "3.png", spoilt / "new.png")
    (spoilt / "1.png").unlink()
    shutil.copy(place / "other" / "3.png", spoilt / "2.png")
    config, run = more(begun, place), Run(place / "runs" / "one")
    before = {
        path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.name != "events.jsonl"
    }
    with pytest.raises(UsageError) as refused:
        train(config)
    said = str(refused.value)
    for part in ("added new.png", "removed 1.png", "0.png (caption or weight)", "2.png (picture)", "--accept-change"):
        assert part in said
    assert before == {path: path.read_bytes() for path in before}

    def stop(event: Event) -> None:
        if event.phase == "preview":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, stop, accept_change=True)
    accepted = run.last("accepted")
    assert accepted is not None
    assert "added new.png" in accepted["message"]
    train(config)  # accepted once
    assert sum(event.event == "accepted" for event in run.events()) == 1
    assert run.state() == "done"
    assert "new.png" in json.loads((run.folder / "env.json").read_text())["basis"]["pictures"]


def test_an_accepted_learning_rate_counts(begun: Path, place: Path):
    config, run = more(begun, place, lr=0.5, weight_decay=0.1, schedule="constant", warmup=0), place / "runs" / "one"
    with pytest.raises(UsageError, match=r"lr: 0.01 -> 0.5; .*--accept-change"):
        train(config)
    train(config, accept_change=True)
    assert [runs.numbers(run)[step]["lr"] for step in (3, 4)] == [0.5, 0.5]
    assert Run(run).config().settings.lr == 0.5
    optimizer = json.loads((run / "checkpoints/step-000004/meta.json").read_text())["optimizer"]
    groups = dict(optimizer["dict"])["param_groups"]["list"]
    assert [dict(group["dict"])["weight_decay"] for group in groups] == [0.1]
    assert Run(run).last("accepted") is not None


def test_more_steps_follow_the_longer_schedule(begun: Path, place: Path):
    folder = train(more(begun, place, steps=8))
    straight = train(more(begun, place, steps=8).model_copy(update={"run": "straight"}))
    rates = [{step: said["lr"] for step, said in runs.numbers(run).items() if step > 2} for run in (folder, straight)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"adapter": {"rank": 3}}, "adapter.rank: 2 -> 3.*other rank"),
        ({"optimizer": "sgd"}, "optimizer: adamw -> sgd.*another optimizer"),
        ({"ema": 0.0}, "ema: 0.9 -> 0.0.*average"),
        ({"adapter": {"dora": True}}, "adapter.dora: False -> True.*tensors of the checkpoint's adapter do not fit"),
        ({"steps": 1}, "steps = 1, .*has done 2: steps only grow"),
        (
            {"steps": 1, "lr": 0.5, "clip": 0.5},
            "only grow; also made otherwise: clip: .* -> 0.5; lr: 0.01 -> 0.5;",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_changed_stays_an_error(begun: Path, place: Path, change: dict[str, Any], why: str):
    with pytest.raises(UsageError, match=why):
        train(more(begun, place, **change), accept_change=True)
    assert Run(place / "runs" / "one").summary()["steps"] == 2


def test_a_run_toml_changed_by_hand_is_seen(begun: Path, place: Path):
    file = place / "runs" / "one" / "run.toml"
    file.write_text(file.read_text().replace("lr = 0.01", "lr = 0.02").replace("steps = 2 ", "steps = 4 ", 1))
    config = from_toml(file).model_copy(update={"runs": place / "runs"})
    config = config.model_copy(update={"settings": config.settings.model_copy(update={"steps": 4})})
    assert config.settings.lr == 0.02
    with pytest.raises(UsageError, match="lr: 0.01 -> 0.02"):
        train(config)


def test_another_base_model_under_the_same_name_is_seen(begun: Path, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Toy, "fingerprint", lambda self: "f" * 64)
    with pytest.raises(UsageError, match="base model: fingerprint .* -> ffffffffffff"):
        train(more(begun, place))


def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(begun: Path, place: Path):
    run = Run(place / "runs" / "one")
    train(more(begun, place))
    straight = runs.numbers(run.folder)
    (run.checkpoints / "step-000004" / "optimizer.safetensors").write_bytes(b"x")
    told: list[Event] = []
    with pytest.warns(UserWarning, match="step-000004 is damaged"):
        train(more(begun, place, steps=5), told.append)
    assert any("step-000004 is damaged" in str(e.get("message")) for e in told if e.event == "warning")
    assert [event.step for event in told if event.numbers] == [3, 4, 5]
    again = runs.numbers(run.folder)
    assert {step: again[step]["loss"] for step in (1, 2, 3)} == {step: straight[step]["loss"] for step in (1, 2, 3)}


def test_a_finished_run_is_not_changed_by_accepting(begun: Path, place: Path):
    with pytest.raises(UsageError, match=r"finished.*clip: 1.0 -> 0.5; lr: 0.01 -> 0.5.*--steps"):
        train(more(begun, place, steps=2, lr=0.5, clip=0.5), accept_change=True)
    assert Run(place / "runs" / "one").config().settings.lr == 0.01


def test_the_checkpoint_of_other_tensors_is_refused(begun: Path, place: Path):
    run = Run(place / "runs" / "one")
    found = run.latest()
    assert found is not None
    groups = {name: found.tensors(name) for name in found.names()}
    groups["adapter"] = {name: torch.zeros(1) for name in groups["adapter"]}
    run.save_checkpoint(found.step, groups, found.meta)
    with pytest.raises(UsageError, match="do not fit"):
        train(more(begun, place))
