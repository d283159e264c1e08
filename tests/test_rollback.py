"""`studio rollback`: the adapter's files hold the guard's best look again, and the run stays what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio import checkpoints, cli
from studio.choice_weights import usable
from studio.config import RunConfig, make
from studio.pipelines.adapters import files
from studio.snapshot import State
from studio.store import Run
from studio.train import train


def config(runs: Path, every: int) -> RunConfig:
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
    }
    return make("alignprop", flags={"model": "toy", "run": "one", "runs": runs, "settings": settings})


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
