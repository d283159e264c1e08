"""Checkpoints: what is in them, which are kept, and what a full disk does to a run."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from studio import checkpoints, disk, events
from studio.config import make
from studio.disk import DiskFull
from studio.events import Event
from studio.journal import Journal
from studio.loop import Tick
from studio.pipelines.errors import DataError, MemoryShortage
from studio.saver import Saver
from studio.snapshot import State
from studio.stop import Stop, Stopped
from studio.store import Run, Store
from studio.train import train
from tests import runs

TENSORS = {"adapter": {"a": torch.ones(3)}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Store(tmp_path).create(make(flags={"model": "toy", "run": "a", "settings": {"data": {"folder": "x"}}}))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "POLL", 0.01)


def saved(run: Run) -> list[int]:
    return list(checkpoints.steps(run.checkpoints))


def saver(run: Run, told: list[Event] | None = None, stop: Stop | None = None, **settings: Any) -> Saver:
    journal = Journal((told if told is not None else []).append, stop or Stop())
    config = make(flags={"model": "toy", "settings": settings})
    journal.open(run, config.settings.disk_wait)
    return Saver(run, journal, config.settings, {})


def tick(step: int) -> Tick:
    state = State()
    state.put("adapter", {"a": torch.full((3,), float(step))})
    return Tick(step, {}, True, lambda: state, nullcontext)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"keep_last": 2}, [1, 3, 5, 6]),
        ({"keep_last": 1, "keep_steps": (2, 4)}, [1, 2, 3, 4, 6]),
        ({"keep_last": 1, "keep_best": False}, [3, 6]),
    ],
    ids=str,
)
def test_the_newest_the_best_and_the_pinned_are_kept(run: Run, settings: dict[str, Any], kept: list[int]):
    told: list[Event] = []
    one = saver(run, told, **settings)
    for step in range(1, 7):
        one.save(tick(step), step)
        if step == 1:
            checkpoints.mark(run.checkpoints / "step-000001", "best")
        if step == 3:
            checkpoints.mark(run.checkpoints / "step-000003", "pinned")
    assert saved(run) == kept
    said = [event["path"] for event in told if event.event == "deleted"]
    assert said == [f"checkpoints/step-{step:06}" for step in range(1, 7) if step not in kept]


@pytest.mark.parametrize(("every", "kept"), [(0, [6]), (2, [2, 4, 6]), (1, [1, 2, 3, 4, 5, 6])])
def test_what_only_the_clock_asked_for_goes_when_a_newer_one_stands(run: Run, every: int, kept: list[int]):
    told: list[Event] = []
    one = saver(run, told, save_every=every, save_minutes=1e-9)
    for step in range(1, 6):
        one.pass_by(tick(step), step)
        assert step in saved(run)
    one.save(tick(6), 6)
    assert saved(run) == kept
    said = [event["path"] for event in told if event.event == "deleted"]
    assert said == [f"checkpoints/step-{step:06}" for step in range(1, 7) if step not in kept]


def test_a_checkpoint_whose_manifest_does_not_name_its_files_is_damaged(run: Run):
    path = run.save_checkpoint(1, {"adapter": TENSORS["adapter"], "optimizer": TENSORS["adapter"]}, {})
    manifest = json.loads((path / "manifest.json").read_text())
    kept = dict(manifest["sha256"])
    for wrong in (
        {},
        {name: sha for name, sha in kept.items() if name != "optimizer.safetensors"},
        {name: sha for name, sha in kept.items() if name != "meta.json"},
        kept | {"../../../secret": "0"},
    ):
        (path / "manifest.json").write_text(json.dumps({**manifest, "sha256": wrong}))
        assert "in the folder or in the manifest" in checkpoints.damage(path)
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert not checkpoints.damage(path)
    (run.checkpoints / "step-000099").mkdir()
    assert run.done_steps() == 1


def test_the_clock_asks_for_nothing_when_it_is_off_or_the_step_is_unsafe(run: Run):
    one = saver(run, [], save_minutes=0)
    one.pass_by(tick(1), 1)
    other = saver(run, [], save_minutes=1e-9)
    other.pass_by(replace(tick(2), safe=False), 2)
    assert saved(run) == []


def test_nothing_is_saved_into_a_folder_that_was_emptied(run: Run):
    one = saver(run, [])
    run.config_file.unlink()
    with pytest.raises(DataError, match="removed or emptied while the run trained"):
        one.save(tick(1), 1)
    assert saved(run) == []


def test_the_best_is_one_and_marks_outlive_a_rewriting(run: Run):
    paths = [run.save_checkpoint(step, TENSORS, {}) for step in (1, 2)]
    checkpoints.mark(paths[0], "best")
    checkpoints.mark(paths[0], "pinned")
    run.save_checkpoint(1, TENSORS, {})
    assert checkpoints.marks(paths[0]) == ["best", "pinned"]
    checkpoints.mark(paths[1], "best")
    assert [checkpoints.marks(path) for path in paths] == [["pinned"], ["best"]]
    assert not checkpoints.damage(paths[0])


def test_nothing_is_deleted_for_a_checkpoint_that_cannot_be_read_back(run: Run, monkeypatch: pytest.MonkeyPatch):
    told: list[Event] = []
    one = saver(run, told, keep_last=1)
    one.save(tick(1), 1)
    real = checkpoints.publish

    def spoil(stage: Path, final: Path) -> Path:
        (stage / "adapter.safetensors").write_bytes(b"")
        return real(stage, final)

    monkeypatch.setattr(checkpoints, "publish", spoil)
    one.save(tick(2), 2)
    assert [event.event for event in told] == ["checkpoint", "warning"]
    assert not checkpoints.damage(run.checkpoints / "step-000001")


def test_a_half_deleted_checkpoint_is_never_seen(run: Run, monkeypatch: pytest.MonkeyPatch):
    paths = [run.save_checkpoint(step, TENSORS, {}) for step in (1, 2)]

    def crash(path: Path, *_: Any, **__: Any) -> None:
        if path.exists():
            (path / "manifest.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.remove(paths[1])
    assert saved(run) == [1]
    checkpoints.clear(run.checkpoints)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000001"]


def test_other_names_are_no_checkpoints(run: Run):
    run.save_checkpoint(1, TENSORS, {})
    for name in ("step-000001 copy", "step-2.bak", "step-"):
        (run.checkpoints / name).mkdir()
    assert saved(run) == [1]


def test_a_checkpoint_holds_all_that_a_run_depends_on(tmp_path: Path):
    folder = train(runs.config(runs.pictures(tmp_path / "data"), tmp_path, steps=3))
    path = folder / "checkpoints" / "step-000003"
    meta = json.loads((path / "meta.json").read_text())
    parts = {"adapter", "optimizer", "schedule", "scaler", "ema", "memory", "random", "position", "previews", "basis"}
    assert parts | {"step"} <= meta.keys()
    assert (meta["step"], meta["position"], meta["previews"]) == (3, 6, {"seeds": [0, 0]})
    assert {key for key, _ in meta["random"]["dict"]} >= {"torch", "cuda", "numpy", "python"}
    assert all(len(meta["basis"][name]) == 64 for name in ("config_hash", "data", "model"))
    assert set(meta["basis"]["pictures"]) == {"0.png", "1.png", "2.png"}
    assert "in the snow" not in (path / "meta.json").read_text()
    kinds = {file.suffix for file in path.iterdir()}
    assert kinds == {".safetensors", ".json"}
    for name in ("adapter", "optimizer", "ema", "random"):
        with safe_open(path / f"{name}.safetensors", framework="pt") as file:
            assert list(file.keys())


def full(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """The disk says that it is full that many times."""
    answers: Iterator[int] = iter([0] * int(min(times, 10**6)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(answers, 2**40)))


@pytest.mark.usefixtures("quick")
def test_on_a_full_disk_the_run_pauses_and_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = runs.pictures(tmp_path / "data")
    straight = train(runs.config(data, tmp_path, "straight"))
    folder = train(runs.config(data, tmp_path), runs.when("", "train", 1, lambda: full(monkeypatch, 3)))
    said = [event["message"] for event in Run(folder).events() if event.event == "warning"]
    assert any(text.startswith("paused: ") and "MiB needed, 0.00 MiB free" in text for text in said)
    assert any("there is room again" in text for text in said)
    assert runs.files(folder) == runs.files(straight)


@pytest.mark.usefixtures("quick")
def test_waiting_for_room_has_an_end_and_keeps_what_there_is(run: Run, monkeypatch: pytest.MonkeyPatch):
    one = saver(run, disk_wait=0.001)
    one.save(tick(1), 1)
    full(monkeypatch, 1e6)
    with pytest.raises(MemoryShortage, match=r"MiB needed.*kept: step-000001") as ended:
        one.save(tick(2), 2)
    assert ended.value.exit_code == 4
    assert saved(run) == [1]


@pytest.mark.usefixtures("quick")
def test_who_asks_to_stop_need_not_wait_for_room(run: Run, monkeypatch: pytest.MonkeyPatch):
    stop = Stop(run.stop_file)
    one = saver(run, stop=stop)
    one.save(tick(1), 1)
    full(monkeypatch, 1e6)
    run.stop_file.touch()
    with pytest.raises(Stopped, match="step 2 .*kept: step-000001"):
        one.save(tick(2), 2)


def failing(real: Callable[..., Any], times: int) -> Callable[..., Any]:
    """A call that fails for want of room that many times, half of its work done."""
    left = [times]

    def call(path: Path, event: Event) -> None:
        if left[0]:
            left[0] -= 1
            with path.open("ab") as file:
                file.write(event.line().encode()[:20])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, event)

    return call


@pytest.mark.usefixtures("quick")
def test_no_event_is_lost_while_the_disk_is_full(run: Run, monkeypatch: pytest.MonkeyPatch):
    told: list[Event] = []
    journal = Journal(told.append)
    journal.open(run, 1.0)
    monkeypatch.setattr(events, "append", failing(events.append, 3))
    journal.phase, journal.step = "train", 1
    journal(numbers={"loss": 0.5})
    journal("done")
    assert [event.event for event in told] == ["warning", "warning", "", "done"]
    assert sorted(event.event for event in run.events()) == ["", "done", "warning", "warning"]
    assert run.curve() == {1: 0.5}


def test_a_final_event_is_reported_although_it_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch):
    told: list[Event] = []
    journal = Journal(told.append)
    journal.open(run, 60.0)
    monkeypatch.setattr(events, "append", failing(events.append, 10**6))
    journal.end("stopped", message="x")
    assert [event.event for event in told] == ["stopped"]


def test_another_error_than_a_full_disk_is_not_waited_for(run: Run):
    def broken() -> None:
        raise OSError(errno.EACCES, "Permission denied")

    journal = Journal(lambda event: None)
    journal.open(run, 60.0)
    with pytest.raises(OSError, match="Permission"):
        journal.patiently(broken)
    assert issubclass(DiskFull, MemoryShortage)
