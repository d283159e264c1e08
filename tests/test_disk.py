"""A run that cannot fit on its disk is refused before anything is written, and one that can is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.numpy import load_file

from studio import plan_disk
from studio.config import RunConfig
from studio.events import Event
from studio.pipelines import backbone
from studio.pipelines.errors import DiskError
from studio.train import train
from studio.trainers.base import Settings
from tests import runs

KEEPING = [{}, {"keep_last": 1}, {"keep_last": 2, "keep_steps": (2, 3)}, {"save_every": 0}]


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=count, total=2**40))


def needed(config: RunConfig) -> dict[str, int]:
    """What a new run is sure to take."""
    model = backbone.load(config.model)
    config.settings.adapter.build(model)
    data = config.settings.data.read(model)
    return plan_disk.least(config, model, [data], [])


def tensors(folder: Path, names: tuple[str, ...]) -> int:
    """Bytes of the tensors in all files of these names below a folder."""
    files = [file for name in names for file in folder.rglob(f"{name}.safetensors")]
    return sum(tensor.nbytes for file in files for tensor in load_file(file).values())


@pytest.mark.parametrize("keeping", KEEPING, ids=str)
def test_what_is_needed_at_least_is_what_a_run_takes_and_no_more(tmp_path: Path, keeping: dict[str, Any]):
    settings = {"save_every": 1, "save_minutes": 0, "data": {"crop": "center"}, **keeping}
    config, most = runs.config(runs.pictures(tmp_path / "data"), tmp_path / "runs", **settings), [0]

    def weigh(event: Event) -> None:
        if event.event in ("checkpoint", "done"):
            most.append(tensors(tmp_path / "runs/one/checkpoints", ("adapter", "optimizer", "ema")))

    folder, need = train(config, weigh), needed(config)
    assert need["checkpoints"] <= max(most) <= 1.02 * need["checkpoints"]  # and a step's number for each tensor
    assert need["cache"] == sum(size for _, size in latents(tmp_path / "runs/.cache")) > 0
    assert need["adapter"] in (0, tensors(folder, ("adapter",)) - tensors(folder / "checkpoints", ("adapter",)))


def latents(cache: Path) -> Iterator[tuple[Path, int]]:
    """The cache's entries that hold latents, and their bytes."""
    for file in cache.rglob("*.safetensors"):
        held = load_file(file)
        if held.keys() == {"mean", "std"}:
            yield file, sum(tensor.nbytes for tensor in held.values())


def test_no_room_is_one_line_with_code_3_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, place = runs.pictures(tmp_path / "data"), tmp_path / "runs"
    config = runs.config(data, place, save_every=1)
    need = sum(needed(config).values())
    free(monkeypatch, need - 1)
    with pytest.raises(DiskError, match=r"the run writes at least .* are free; make room") as refused:
        train(config)
    assert refused.value.exit_code == 3
    assert "\n" not in str(refused.value)
    assert not place.exists()
    assert needed(runs.config(data, place, save_every=1, keep_last=1))["checkpoints"] < need
    made = backbone.load("toy")
    config.settings.adapter.build(made)
    free(monkeypatch, need)
    plan_disk.refuse(config, made, [config.settings.data.read(made)], SimpleNamespace(folder=place, checkpoints=place))  # type: ignore[arg-type]


def test_what_lies_there_is_not_needed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = runs.pictures(tmp_path / "data")
    config = runs.config(data, tmp_path, save_every=1, disk_wait=0, data={"crop": "center"})
    train(config)
    model = backbone.load("toy")
    config.settings.adapter.build(model)
    again = runs.config(data, tmp_path, save_every=1, steps=runs.STEPS + 1, data={"crop": "center"})
    whole = plan_disk.least(again, model, [again.settings.data.read(model)], [])
    rest = plan_disk.least(again, model, [], range(1, runs.STEPS + 1))
    assert rest["checkpoints"] * (runs.STEPS + 1) == whole["checkpoints"]
    free(monkeypatch, sum(rest.values()))  # the latents are there
    run = SimpleNamespace(folder=tmp_path / "one", checkpoints=tmp_path / "one" / "checkpoints")
    plan_disk.refuse(again, model, [again.settings.data.read(model)], run)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "there", "standing"),
    [
        ({"steps": 10, "save_every": 2}, [], (5, 5)),
        ({"steps": 10, "save_every": 0}, [], (1, 1)),
        ({"steps": 10, "save_every": 2, "keep_last": 1}, [], (2, 1)),
        ({"steps": 10, "save_every": 20, "keep_last": 3}, [], (1, 1)),
        ({"steps": 10, "save_every": 2, "keep_last": 1, "keep_steps": (2, 5)}, [], (3, 2)),
        ({"steps": 10, "save_every": 2, "keep_last": 2}, [2, 4], (1, 0)),
        ({"steps": 10, "save_every": 2}, [2, 4, 6], (2, 2)),
        ({"steps": 10, "save_every": 2}, [10], (0, 0)),
    ],
    ids=str,
)
def test_as_many_checkpoints_as_stand_side_by_side(settings: dict[str, Any], there: list[int], standing: Any):
    assert plan_disk.standing(Settings(**settings), there) == standing
