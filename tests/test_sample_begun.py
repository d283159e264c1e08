"""Guidance between a run and what it began with: another adapter than none, where the run went on from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studio import cli, sample, sample_begun
from studio.config import make
from studio.pipelines.adapters import files, lora
from studio.pipelines.toy import Toy
from studio.pipelines.twin import tensors
from studio.store import Run
from studio.train import train

FEW = {"previews": {"sampler": "lcm", "steps": 2, "guidance_scale": 1.0}}


def trained(runs: Path, name: str, **settings: Any) -> Path:
    """A run by reward, of two large steps."""
    usual = {
        "steps": 2, "batch": 2, "lr": 0.1, "precision": "no", "sampler_steps": 2, "guard": {"every": 0}, **FEW,
        "prompts": {"texts": ["a cat", "a dog"]}, "reward": {"terms": ["jpeg-soft-bits"]},
    }  # fmt: skip
    return train(make("alignprop", flags={"model": "toy", "run": name, "runs": runs, "settings": usual | settings}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `two` went on from `one`, which is of another rank."""
    folder = tmp_path_factory.mktemp("runs")
    first = trained(folder, "one", adapter={"rank": 3})
    trained(folder, "two", start=first, reward={"terms": ["-1*jpeg-soft-bits"]})
    return folder


def drawn(runs: Path, out: Path, source: str, *flags: str) -> Any:
    """The pixels of one picture."""
    fixed = ["--model", "toy", "--prompt", "a cat", "--n", "1", "--steps", "3", "--runs", str(runs), "--out", str(out)]
    assert cli.run(["sample", source, *fixed, *flags]) == 0
    with Image.open(out) as picture:
        return np.asarray(picture.convert("RGB"), np.float32)


def test_gain_zero_is_what_the_run_began_with_and_gain_one_the_run(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    rl = ["--guidance", "rl", "--guidance-scale", "3", "--sampler", "ddim", "--gain"]
    plain = ["--guidance-scale", "3", "--sampler", "ddim"]
    one, two, base = (drawn(runs, out, name, *plain) for name in ("one", "two", "base"))
    assert np.abs(drawn(runs, out, "two", *rl, "0") - one).max() <= 1
    assert np.abs(drawn(runs, out, "two", *rl, "1") - two).max() <= 1
    assert np.abs(drawn(runs, out, "one", *rl, "0") - base).max() <= 1
    assert np.abs(one - base).max() > 1
    assert np.abs(one - two).max() > 1
    checkpoint = drawn(runs, out, "two@2", *rl, "0")
    assert np.abs(checkpoint - one).max() <= 1


def test_the_hint_is_for_files_and_runs_that_began_from_nothing(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for source in ("one", "two", str(runs / "two" / files.NAME)):
        drawn(runs, tmp_path / "picture.png", source, "--guidance", "rl")
        said[source] = capfd.readouterr().err
    first, second, file = said.values()
    assert "put a few-step adapter beneath both" in first
    assert "run's name" not in first
    assert "base model" not in second
    assert "draw it by its run's name instead" in file


def test_a_start_that_is_another_by_now_is_not_compared_with(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes((runs / "one" / files.NAME).read_bytes())
    run = Run(trained(tmp_path, "three", start=mine, steps=1))
    assert sample_begun.beginning(run) == (mine, "")
    mine.write_bytes((runs / "two" / files.NAME).read_bytes())
    for why in ("has changed since", "is gone"):
        assert sample_begun.beginning(run) == (None, f"{mine}, {why}")
        drawn(tmp_path, tmp_path / "picture.png", "three", "--guidance", "rl")
        doubt = f"rl guidance compares with the base model, since what the run began with, {mine}, {why}"
        assert doubt in capfd.readouterr().err
        mine.unlink(missing_ok=True)


def test_together_with_its_start_a_run_would_count_twice(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = ["--prompt", "a", "--n", "1", "--steps", "2", "--runs", str(runs), "--out", str(tmp_path / "picture.png")]
    assert cli.run(["sample", "one", "two", "--strength", "1", "1", *out]) == 0
    assert "it counts twice" in capfd.readouterr().err
    assert cli.run(["sample", "one", "two", *out]) == 0
    assert "twice" not in capfd.readouterr().err


def test_the_model_is_left_as_it_was(runs: Path) -> None:
    model = Toy()
    before = [tensor.clone() for tensor in tensors(model)]
    adapter = sample_begun.load(model, runs / "two" / files.NAME, runs / "one" / files.NAME)
    state = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    with adapter.off():
        inside = weights(adapter)
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights(adapter).items())
    assert any(not torch.equal(tensor, state[name]) for name, tensor in inside.items())
    adapter.remove()
    assert model.adapter is None
    assert all(map(torch.equal, before, tensors(model)))


def weights(adapter: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.data.clone() for name, parameter in adapter.named_parameters().items()}


def test_what_the_start_was_taught_to_call_its_subject_is_not_taken_out(tmp_path: Path) -> None:
    model = Toy()
    file = files.save(
        model, lora.Config(rank=2).build(model), tmp_path / "cat.safetensors", {"trigger": "sks", "class_word": "cat"}
    )
    words = {"trigger": "sks", "class_word": "cat"}
    source = sample.Source("two", file, "toy", words, begun=file)
    drawing = sample.How().drawing(None)
    assert sample.Column((source,), (1.0,), drawing).told("a {trigger} {class_word}") == ("a sks cat", "a sks cat")
    plain = sample.Column((sample.Source("two", file, "toy", words),), (1.0,), drawing)
    assert plain.told("a {trigger} {class_word}") == ("a sks cat", "a cat")
