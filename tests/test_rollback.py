"""`studio rollback`: the adapter's files hold the guard's best look again, and the run stays what it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from studio import checkpoints, choice_file, cli
from studio.choice_pick import pick
from studio.choice_weights import usable
from studio.config import RunConfig, make
from studio.pipelines.adapters import files
from studio.snapshot import State
from studio.store import Run
from studio.train import train


def config(runs: Path, every: int, name: str = "one", **more: Any) -> RunConfig:
    """Four steps of a reward; the guard, if it looks, wants the opposite, and never ends the run."""
    settings = {
        "steps": 4,
        "batch": 2,
        "lr": 0.05,
        "precision": "no",
        "sampler_steps": 2,
        "prompts": {"texts": ["a cat", "a dog"], "held_out": ["a bird"]},
        "reward": {"terms": ["jpeg-soft-bits"]},
        "guard": {"every": every, "terms": ["-1*colourfulness"], "pictures": 4, "patience": 50, "prompts": 1},
        "previews": {"steps": 2},
        **more,
    }
    return make("alignprop", flags={"model": "toy", "run": name, "runs": runs, "settings": settings})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(train(config(tmp_path_factory.mktemp("guarded"), 1)))


def best(run: Run) -> tuple[int, dict[str, torch.Tensor]]:
    """The step and the weights of the guard's best look, as the newest checkpoint remembers them."""
    newest = list(usable(run.checkpoints).values())[-1]
    state = State({name: newest.tensors(name) for name in newest.names()}, newest.meta)
    guard = state.get("memory")["guard"]
    return guard["best_look"]["step"], guard["best"]


def test_the_files_hold_the_best_look_and_the_checkpoints_stay(run: Run, capsys: pytest.CaptureFixture[str]):
    file = run.folder / files.NAME
    ended, step_then = load_file(file), files.header(file)
    kept = {path: path.read_bytes() for path in run.checkpoints.rglob("*") if path.is_file()}
    step, weights = best(run)
    assert cli.run(["rollback", "one", "--runs", str(run.folder.parent)]) == 0
    assert f"back at step {step}" in capsys.readouterr().out
    assert files.header(file)["step"] == str(step)
    assert files.header(file)["studio.config"] == step_then["studio.config"]
    written = sorted(tensor.float().abs().sum().item() for tensor in load_file(file).values())
    assert written == pytest.approx(sorted(tensor.float().abs().sum().item() for tensor in weights.values()))
    assert step < 4
    assert written != sorted(tensor.float().abs().sum().item() for tensor in ended.values())
    assert {path: path.read_bytes() for path in run.checkpoints.rglob("*") if path.is_file()} == kept
    assert run.state() == "done"
    assert any("rolled back" in str(event.fields.get("message", "")) for event in run.events())


def test_without_a_guard_there_is_nothing_to_go_back_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = Run(train(config(tmp_path, 0)))
    assert checkpoints.steps(run.checkpoints)
    before = (run.folder / files.NAME).read_bytes()
    assert cli.run(["rollback", "one", "--runs", str(tmp_path)]) == 2
    assert "no look of a guard" in capsys.readouterr().err
    assert (run.folder / files.NAME).read_bytes() == before
    with run.alone():
        assert cli.run(["rollback", "one", "--runs", str(tmp_path)]) == 2
    assert cli.run(["rollback", "--runs", str(tmp_path)]) == 2


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that went on from one of another rank than its own settings say."""
    runs = tmp_path_factory.mktemp("gone-on")
    first = train(config(runs, 0, "first", adapter={"rank": 3}, steps=1))
    return Run(train(config(runs, 1, "two", start=first, save_every=2)))


def sizes(weights: dict[str, torch.Tensor]) -> list[float]:
    return sorted(tensor.float().abs().sum().item() for tensor in weights.values())


def test_a_run_that_went_on_from_another_rank_goes_back_and_is_picked_from(gone_on: Run):
    file, folder = gone_on.folder / files.NAME, gone_on.folder
    _, weights = best(gone_on)
    assert cli.run(["rollback", "two", "--runs", str(folder.parent)]) == 0
    assert sizes(load_file(file)) == pytest.approx(sizes(weights))
    ledger = choice_file.Ledger(picked={"step": 2, "strength": 1.0, "reason": "it is best"})
    gone_on.write(choice_file.NAME, ledger.to_json())
    assert pick(gone_on)
    assert files.header(file)["step"] == "2"
    assert sizes(load_file(file)) == pytest.approx(sizes(usable(gone_on.checkpoints)[2].tensors("adapter")))
    sample = ["sample", "two@2", "--prompt", "a", "--n", "1", "--steps", "2", "--runs", str(folder.parent)]
    assert cli.run([*sample, "--out", str(folder / "picture.png")]) == 0


def test_it_goes_back_although_its_start_is_gone(gone_on: Run, tmp_path: Path):
    shutil.copytree(gone_on.folder, tmp_path / "two")
    text = (tmp_path / "two" / "run.toml").read_text()
    (tmp_path / "two" / "run.toml").write_text(text.replace("first/adapter", "elsewhere/adapter"))
    assert cli.run(["rollback", "two", "--runs", str(tmp_path)]) == 0
    (tmp_path / "two" / files.NAME).unlink()
    assert cli.run(["rollback", "two", "--runs", str(tmp_path)]) == 2
