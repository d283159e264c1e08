"""What a plan says of the steps, and of an adapter that goes on from a file: its rank, not the settings'."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from studio import plan, plan_show, start
from studio.config import RunConfig, make
from studio.pipelines.adapters import files, lora
from studio.pipelines.toy import Toy
from studio.rate import lasting
from studio.ui import plan_line

CPU = torch.device("cpu")


def config(trainer: str, model: str = "toy", **settings: Any) -> RunConfig:
    return make(trainer, flags={"model": model, "settings": {"precision": "no", **settings}})


@pytest.mark.parametrize(
    ("trainer", "settings", "said"),
    [
        ("dreambooth", {"batch": 2, "accumulate": 3}, "500 steps of 2 x 3 pictures"),
        (
            "ddpo",
            {"rollout": 32, "batch": 8, "sampler_steps": 3},
            "500 steps, one for each roll-out of 32 pictures, each step from 96 (picture, sampler step) pairs",
        ),
        (
            "rlcm",
            {"rollout": 16, "sampler_steps": 4, "updates": 5, "epochs": 2, "guard": {"every": 20}},
            "500 steps, 10 for each roll-out of 16 pictures, each step from 10 of its 48 (picture, sampler step) pairs",
        ),
    ],
)
def test_steps_are_said_as_they_are_made(trainer: str, settings: dict[str, Any], said: str) -> None:
    assert plan_show.work(config(trainer, **settings).settings) == said


def test_an_adapter_that_goes_on_has_its_files_size(tmp_path: Path) -> None:
    model = Toy()
    file = files.save(model, lora.Config(rank=5).build(model), tmp_path / "five.safetensors", {"base_model": "toy"})
    fresh, other = (plan.of(config("dreambooth", adapter={"rank": rank})) for rank in (5, 2))
    going = plan.of(config("dreambooth", start=file))
    assert going.phase("train").parts["adapter"] == fresh.phase("train").parts["adapter"]
    assert going.phase("train").parts["adapter"] != other.phase("train").parts["adapter"]
    assert going.disk["checkpoints"] == fresh.disk["checkpoints"]


def test_without_weights_too() -> None:
    wanted = config("rlcm", "embedded", start="lcm:embedded")
    file = start.file(wanted.settings)
    assert file is not None
    model = plan.hollow(wanted, CPU)
    assert model.adapter is not None
    parameters = model.adapter.parameters()
    assert {parameter.device.type for parameter in parameters} == {"meta"}
    assert sum(p.numel() for p in parameters) == sum(t.numel() for t in load_file(file).values())


def test_a_disk_without_room_is_said_beside_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = config("dreambooth", steps=10**9, save_every=100, keep_last=0)
    made = plan.of(wanted.model_copy(update={"runs": tmp_path / "not" / "there"}))
    assert made.room == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert made.full
    plan_show.show(wanted, made, ())
    assert "free there: does not fit" in capsys.readouterr().out
    said = plan_line.words(made, [])
    assert said.startswith("**Does not fit on the disk.**")
    assert f"About {lasting(made.total)}" in said
    assert plan_line.words(plan.of(config("dreambooth")), []).startswith("**Fits.**")
