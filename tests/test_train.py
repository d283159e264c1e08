"""A whole run: what it leaves behind, going on with it, and what wrong input does not leave behind."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from studio import cli, export, journal, sample, show
from studio.config import RunConfig, make
from studio.events import Event
from studio.pictures import save
from studio.pipelines.adapters import files
from studio.pipelines.errors import DataError, ModelError, UsageError
from studio.store import Run, Store
from studio.train import train
from tests import runs


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three small pictures with one caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "0.txt").write_text("a {trigger} in the snow")
    return folder


def config(pictures: Path, tmp_path: Path, **settings: Any) -> RunConfig:
    fast = {"steps": 4, "data": {"folder": pictures}, "previews": {"steps": 2}, "precision": "no"}
    flags = {"model": "toy", "run": "one", "runs": tmp_path / "runs", "settings": {**fast, **settings}}
    return make("dreambooth", flags=flags)


def pixels(path: Path) -> np.ndarray:
    """A picture's values."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), int)


def test_a_run_leaves_everything_design_promises(pictures: Path, tmp_path: Path) -> None:
    told: list[Event] = []
    folder = train(config(pictures, tmp_path, save_every=2), told.append)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "run.toml",
        "env.json",
        "events.jsonl",
        "grid.png",
        "adapter.safetensors",
        "adapter.kohya.safetensors",
    } <= names
    assert {"samples/base-00.png", "samples/000004-00.png"} <= names
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["step-000002", "step-000004"]
    assert Run(folder).state() == "done"
    phases = [event.phase for event in told]
    assert list(dict.fromkeys(phases)) == ["load", "cache", "preview", "train", "export", "check"]
    losses = [event.numbers["loss"] for event in Run(folder).events() if event.numbers]
    assert len(losses) == 4
    assert all(np.isfinite(losses))


def test_guided_previews_say_so_and_the_file_is_compared_without(pictures: Path, tmp_path: Path) -> None:
    guided = {"steps": 2, "guidance": {"kind": "consistency", "w_con": 2.0}}
    folder = train(config(pictures, tmp_path, previews=guided, lr=1e-2))
    assert Run(folder).state() == "done"
    with Image.open(folder / "samples/000004-00.png") as picture:
        assert "consistency" in picture.info["guidance"]
    plain = train(config(pictures, tmp_path, lr=1e-2).model_copy(update={"run": "plain"}))
    assert not np.array_equal(pixels(folder / "samples/000004-00.png"), pixels(plain / "samples/000004-00.png"))
    assert np.array_equal(pixels(folder / "samples/base-00.png"), pixels(plain / "samples/base-00.png"))


def test_the_file_says_what_it_was_made_of(pictures: Path, tmp_path: Path) -> None:
    fast = {"steps": 6, "adapter": {"rank": 2}, "previews": {"steps": 2}, "precision": "no"}
    fast["data"] = {"folder": pictures, "class_word": "cat"}
    flags = {"model": "toy", "run": "one", "runs": tmp_path / "runs", "settings": fast}
    folder = train(make("dco", flags=flags))
    header = files.header(folder / files.NAME)
    numbers = [event.numbers for event in Run(folder).events() if event.numbers]
    assert json.loads(header["studio.memory"])["beta"] == pytest.approx(numbers[-1]["beta"])
    told = json.loads(header["studio.config"])
    assert told["settings.beta"] == "auto"
    assert str(tmp_path) not in " ".join(header.values())
    assert len(header["studio.data"]) == len(header["studio.base"]) == 64


def test_the_same_words_give_the_same_bits(pictures: Path, tmp_path: Path) -> None:
    one = load_file(train(config(pictures, tmp_path)) / export.NAME)
    again = config(pictures, tmp_path).model_copy(update={"run": "two"})
    two = load_file(train(again) / export.NAME)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(pictures: Path, tmp_path: Path) -> None:
    straight = load_file(train(config(pictures, tmp_path).model_copy(update={"run": "straight"})) / export.NAME)
    runs = tmp_path / "runs"

    def stop_after_two(event: Event) -> None:
        if event.numbers and event.step == 2:
            (runs / "one" / "stop").touch()

    with pytest.raises(journal.Stopped):
        train(config(pictures, tmp_path), stop_after_two)
    assert Run(runs / "one").last("stopped") is not None
    folder = train(config(pictures, tmp_path))
    resumed = load_file(folder / export.NAME)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert (folder / "samples/000004-00.png").read_bytes() == (runs / "straight/samples/000004-00.png").read_bytes()


def test_a_crash_in_the_export_trains_nothing_again(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ModelError("no")

    with monkeypatch.context() as patch:
        patch.setattr(files, "exports", fail)
        with pytest.raises(ModelError):
            train(config(pictures, tmp_path))
    before = Run(tmp_path / "runs/one").last("failed")
    assert before is not None
    assert before.fields["exit_code"] == 6
    told: list[Event] = []
    folder = train(config(pictures, tmp_path), told.append)
    assert not [event for event in told if event.numbers]
    assert (folder / export.NAME).is_file()


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def block(name: str) -> Callable[[Path], None]:
    """A folder in the place of a file."""

    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return act


@pytest.mark.parametrize(
    ("act", "said", "event", "phase", "step"),
    [
        (remove, "was removed or emptied while the run trained", "", "train", 2),
        (remove, "was removed or emptied while the run trained", "message", "export", 4),
        (block("events.jsonl"), "events.jsonl cannot be used .*directory", "", "train", 2),
        (block("events.jsonl"), "events.jsonl cannot be used .*directory", "audit", "load", 0),
        (block("adapter.safetensors"), "one/adapter.safetensors cannot be used", "", "train", 2),
    ],
)
def test_a_folder_changed_under_a_run_is_one_line(
    pictures: Path, tmp_path: Path, act: Callable[[Path], None], said: str, event: str, phase: str, step: int
) -> None:
    folder = tmp_path / "runs/one"
    with pytest.raises(DataError, match=said) as ended:
        train(config(pictures, tmp_path), runs.when(event, phase, step, lambda: act(folder)))
    assert ended.value.exit_code == 3
    assert "\n" not in str(ended.value)
    assert folder.exists() == (act is not remove)


def test_where_no_folder_can_be_made_is_a_wrong_word(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in ("file", "file/below"):
        with pytest.raises(UsageError, match="runs = .*no folder can be made there"):
            train(config(pictures, tmp_path).model_copy(update={"runs": tmp_path / place}))


def test_events_that_cannot_be_kept_are_said_before_a_step(pictures: Path, tmp_path: Path) -> None:
    run = Store(tmp_path / "runs").create(config(pictures, tmp_path))
    (run.folder / "events.jsonl").mkdir()
    with pytest.raises(DataError, match="events.jsonl cannot be used .*directory"):
        train(config(pictures, tmp_path))
    assert not run.checkpoints.exists()


def test_a_finished_run_says_so_and_is_left_alone(pictures: Path, tmp_path: Path) -> None:
    folder = train(config(pictures, tmp_path))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    told: list[Event] = []
    assert train(config(pictures, tmp_path), told.append) == folder
    assert any("finished" in str(event.fields.get("message")) for event in told)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_more_steps_go_on(pictures: Path, tmp_path: Path) -> None:
    train(config(pictures, tmp_path))
    told: list[Event] = []
    train(config(pictures, tmp_path, steps=6), told.append)
    assert [event.step for event in told if event.numbers] == [5, 6]


def test_another_config_under_the_same_name_is_refused(pictures: Path, tmp_path: Path) -> None:
    train(config(pictures, tmp_path))
    with pytest.raises(UsageError, match=r"lr: 0.0001 -> 0.5"):
        train(config(pictures, tmp_path, lr=0.5))


@pytest.mark.parametrize("wrong", ["missing", "empty", "corrupt"])
def test_wrong_pictures_leave_nothing(tmp_path: Path, wrong: str) -> None:
    folder = tmp_path / wrong
    if wrong != "missing":
        folder.mkdir()
    if wrong == "corrupt":
        (folder / "a.png").write_bytes(b"not a picture")
    with pytest.raises(DataError) as problem:
        train(config(folder, tmp_path))
    assert "\n" not in str(problem.value)
    assert not (tmp_path / "runs").exists()


def test_one_corrupt_picture_among_good_ones_is_named(pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    told: list[Event] = []
    train(config(pictures, tmp_path), told.append)
    assert any("broken.jpg" in str(e.fields.get("message")) for e in told if e.event == "warning")


@pytest.mark.parametrize(
    "wrong",
    [
        {"adapter": {"rank": 4096}},
        {"adapter": {"targets": "nothing"}},
        {"optimizer": "adamq"},
        {"schedule": "cosin"},
        {"attention": "flash"},
        {"data": {"resolution": 9}},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_leaves_nothing(pictures: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    wrong = {key: {"folder": pictures, **value} if key == "data" else value for key, value in wrong.items()}
    with pytest.raises(UsageError) as problem:
        train(config(pictures, tmp_path, **wrong))
    assert "\n" not in str(problem.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "wrong", [{"seed": 2**64}, {"strength": float("nan")}, {"out": Path("a.jpg")}, {"out": Path(".")}], ids=str
)
def test_sampling_refuses_what_cannot_be_before_it_draws(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        sample.sample(["base"], ["a fox"], **{"model": "toy", "out": Path("a.png"), **wrong})


def test_a_full_disk_is_said_and_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="space") as problem:
        save(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    assert "disk is full" in cli.short_of(problem.value)


def test_sampling_a_run_beside_its_base(pictures: Path, tmp_path: Path) -> None:
    folder = train(config(pictures, tmp_path, lr=0.05))
    model = {"model": "toy", "runs": tmp_path / "runs", "steps": 2, "n": 1}
    alone = sample.sample([str(folder / export.NAME)], ["a {trigger}"], out=tmp_path / "a.png", **model)
    base = sample.sample(["base"], ["a sks"], out=tmp_path / "b.png", **model)
    off = sample.sample(["one"], ["a {trigger}"], out=tmp_path / "c.png", strength=0.0, **model)
    assert np.abs(pixels(alone) - pixels(base)).sum() > 0
    assert np.array_equal(pixels(off), pixels(base))
    with Image.open(alone) as picture:
        assert picture.info["prompt"] == "a {trigger}"
    with pytest.raises(UsageError, match="one"):
        sample.sample(["onne"], ["x"], out=tmp_path / "d.png", **model)


def test_show_draws_the_curve(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(config(pictures, tmp_path))
    show.show("one", tmp_path / "runs")
    said = capsys.readouterr().out
    assert "step 4 of 4" in said
    assert pixels(folder / "curve.png").shape[1] > 500


def test_env_names_what_the_run_was_made_with(pictures: Path, tmp_path: Path) -> None:
    said = json.loads((train(config(pictures, tmp_path)) / "env.json").read_text())
    assert said["versions"]["torch"] == torch.__version__
    assert [len(value) for value in said["fingerprints"].values()] == [64, 64]
    assert Store(tmp_path / "runs").list()[0].name == "one"
