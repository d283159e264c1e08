"""A run is a folder: valid or absent, never half; nothing of a person's is overwritten."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from studio import checkpoints
from studio.config import RunConfig, from_toml, make, merge, to_toml
from studio.events import Event
from studio.pipelines.errors import MemoryShortage, UsageError
from studio.store import Run, Store

TENSORS = {
    "adapter": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)},
    "state": {},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def config(run: str = "", **settings: Any) -> RunConfig:
    own = {"steps": 10, "data": {"folder": "subject:fox"}}
    return make(flags={"model": "toy", "run": run, "settings": merge(own, settings)})


def finish(run: Run, step: int) -> None:
    run.log(Event("train", step, event="done"))


def test_a_new_run_holds_its_complete_config(store: Store):
    run = store.create(config("a", lr=2e-4))
    assert run.state() == "new"
    assert run.config() == config("a", lr=2e-4).resolved("a", store.folder)
    assert (run.folder / "run.toml").read_text() == to_toml(run.config())


def test_the_same_command_again_reopens_the_run(store: Store):
    first = store.create(config("a"))
    first.log(Event("train", 3, {"loss": 1.0}))
    again = store.create(config("a"))
    assert again == first
    assert again.state() == "unfinished"
    finish(again, 10)
    assert store.create(config("a")).state() == "done"


def test_steps_may_grow_and_comments_stay(store: Store):
    run = store.create(config("a"))
    run.config_file.write_text("# my note\n" + run.config_file.read_text())
    finish(run, 10)
    longer = store.create(config("a", steps=20, previews={"every": 5}, save_every=5))
    assert longer.state() == "unfinished"
    assert longer.config().settings.steps == 20
    assert "# my note" in longer.config_file.read_text()


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ({"steps": 9}, "steps: 10 -> 9"),
        ({"lr": 0.5}, "lr: .* -> 0.5"),
        ({"adapter": {"rank": 3}}, "adapter.rank: .* -> 3"),
    ],
)
def test_another_config_under_the_same_name_is_refused_with_the_difference(
    store: Store, other: dict[str, Any], shown: str
):
    run = store.create(config("a"))
    run.log(Event("train", 1, {"loss": 1.0}))
    before = run.config_file.read_bytes()
    with pytest.raises(UsageError, match=shown):
        store.create(config("a", **other))
    assert run.config_file.read_bytes() == before


def test_a_run_without_a_step_takes_another_config(store: Store):
    store.create(config("a"))
    assert store.create(config("a", lr=0.5)).config().settings.lr == 0.5


def test_one_process_at_a_time(store: Store):
    run = store.create(config("a"))
    with run.alone(), pytest.raises(UsageError, match="another process"), run.alone():
        pass
    with run.alone():
        pass


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", " ", "a" * 200, "a\nb"])
def test_only_plain_names(store: Store, name: str):
    if name == "":
        assert store.create(config(name)).name.endswith("fox-dreambooth")
        return
    with pytest.raises(UsageError, match="name"):
        store.create(config(name))


def test_without_a_name_the_unfinished_run_goes_on_and_another_config_gets_its_own(store: Store):
    run = store.create(config())
    run.log(Event("train", 1, {"loss": 1.0}))
    assert store.create(config()) == run
    other = store.create(config(lr=0.5))
    assert other.name == f"{run.name}-2"
    finish(run, 10)
    assert store.create(config()) == run


def test_without_a_name_yesterdays_unfinished_run_goes_on_but_not_a_finished_one(store: Store):
    run = store.create(config())
    old = Run(run.folder.with_name(f"2020-01-01{run.name[10:]}"))
    run.folder.rename(old.folder)
    assert store.create(config()) == old
    finish(old, 10)
    assert store.create(config()) == run


def test_a_run_moved_elsewhere_is_still_the_run(store: Store, tmp_path: Path):
    run = store.create(config("a"))
    shutil.move(str(run.folder), tmp_path / "b")
    moved = Store(tmp_path).open("b")
    assert moved.config().run == "b"
    assert Store(tmp_path).create(config("b")) == moved


def test_an_unknown_run_brings_the_nearest_name(store: Store):
    store.create(config("little-fox"))
    with pytest.raises(UsageError, match="did you mean 'little-fox'"):
        store.open("litle-fox")
    assert store.open(str(store.folder / "little-fox")).name == "little-fox"


def test_events_come_back_and_torn_lines_are_left_out(store: Store):
    run = store.create(config("a"))
    sent = [
        Event("train", 1, {"loss": torch.tensor(0.5)}),
        Event("preview", 1, event="preview", fields={"path": Path("x")}),
    ]
    run.log(sent[0])
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "phase": "tr')
    run.log(sent[1])
    found = list(run.events())
    assert [event.as_dict() for event in found] == [event.as_dict() for event in sent]
    assert [event.phase for event in run.events(after=2)] == ["preview"]


def test_numbers_that_are_not_finite_stay_json(store: Store):
    run = store.create(config("a"))
    run.log(Event("train", 1, {"loss": float("nan"), "worst": float("inf")}))
    line = (run.folder / "events.jsonl").read_text()
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert run.curve("worst") == {1: float("inf")}


def test_of_a_step_done_twice_the_last_counts(store: Store):
    run = store.create(config("a"))
    for step, loss in ((1, 1.0), (2, 2.0), (2, 3.0)):
        run.log(Event("train", step, {"loss": loss}))
    assert run.curve() == {1: 1.0, 2: 3.0}


def test_a_checkpoint_comes_back_bit_for_bit(store: Store):
    run = store.create(config("a"))
    run.save_checkpoint(5, TENSORS, {"position": 7})
    found = run.latest()
    assert found is not None
    assert (found.step, found.meta) == (5, {"position": 7})
    assert found.names() == ["adapter", "state"]
    for name, tensors in TENSORS.items():
        back = found.tensors(name)
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[key], tensors[key]) and back[key].dtype == tensors[key].dtype for key in back)


def test_the_newest_checkpoint_counts_by_number(store: Store):
    run = store.create(config("a"))
    for step in (999_999, 1_000_000, 2):
        run.save_checkpoint(step, TENSORS, {})
    found = run.latest()
    assert found is not None
    assert found.step == 1_000_000


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("file", ["adapter.safetensors", "meta.json", "manifest.json"])
@pytest.mark.parametrize("damage", [tear, flip, Path.unlink])
def test_a_damaged_checkpoint_is_named_and_skipped(store: Store, file: str, damage: Callable[[Path], None]):
    run = store.create(config("a"))
    run.save_checkpoint(1, TENSORS, {})
    damage(run.save_checkpoint(2, TENSORS, {}) / file)
    with pytest.warns(UserWarning, match="step-000002 is damaged"):
        found = run.latest()
    assert found is not None
    assert found.step == 1


def test_a_full_disk_while_writing_keeps_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch):
    run = store.create(config("a"))
    run.save_checkpoint(1, TENSORS, {})
    real, calls = checkpoints.sync, []

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(checkpoints, "sync", full)
    with pytest.raises(MemoryShortage, match=r"kept: step-000001") as caught:
        run.save_checkpoint(2, TENSORS, {})
    assert caught.value.exit_code == 4
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step-000001"]


def test_too_little_room_is_seen_before_writing(store: Store, monkeypatch: pytest.MonkeyPatch):
    run = store.create(config("a"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(MemoryShortage, match="no checkpoint so far"):
        run.save_checkpoint(1, TENSORS, {})


@pytest.mark.parametrize("moment", ["write", "publish"])
def test_a_crash_at_any_moment_leaves_a_valid_checkpoint_or_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, moment: str
):
    run = store.create(config("a"))
    run.save_checkpoint(2, TENSORS, {"try": 1})

    def crash(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, moment, crash)
        with pytest.raises(KeyboardInterrupt):
            run.save_checkpoint(2, TENSORS, {"try": 2})
    found = run.latest()
    assert found is not None
    assert found.meta == {"try": 1}


def test_a_crash_between_the_two_renames_is_healed_by_the_next_save(store: Store):
    run = store.create(config("a"))
    path = run.save_checkpoint(2, TENSORS, {})
    path.rename(path.with_name(".old-step-000002"))
    (path.parent / ".writing-1").mkdir()
    run.save_checkpoint(4, TENSORS, {})
    assert sorted(found.name for found in path.parent.iterdir()) == ["step-000002", "step-000004"]


def test_a_file_called_stop_asks_to_stop(store: Store):
    run = store.create(config("a"))
    assert not run.asks_to_stop()
    (run.folder / "stop").touch()
    assert run.asks_to_stop()


def test_the_environment_is_written_down(store: Store):
    from studio.environment import describe

    run = store.create(config("a"))
    run.write("env.json", json.dumps(describe(data="abc")))
    found = json.loads((run.folder / "env.json").read_text())
    assert found["versions"]["torch"] == torch.__version__
    assert found["fingerprints"] == {"data": "abc"}


@pytest.mark.parametrize("text", ["x = [", "\x00\x00", "trainer = 3"])
def test_a_damaged_config_is_one_line_with_advice(text: str, tmp_path: Path) -> None:
    run = Store(tmp_path).create(config("a"))
    run.config_file.write_text(text)
    with pytest.raises(UsageError, match=r"run.toml"):
        Store(tmp_path).create(config("a"))
    if text != "trainer = 3":
        with pytest.raises(UsageError, match="mend it, or give another --run"):
            run.summary()


def test_comments_of_the_toml_that_a_run_came_from_stay(tmp_path: Path) -> None:
    text = '# my dog\ntrainer = "dreambooth"\nmodel = "toy" # small\n\n[dreambooth]\nsteps = 3 # few\n'
    (tmp_path / "mine.toml").write_text(text)
    made = from_toml(tmp_path / "mine.toml").model_copy(update={"run": "a"})
    run = Store(tmp_path).create(made, text=text)
    kept = run.config_file.read_text()
    assert all(comment in kept for comment in ("# my dog", '"toy" # small', "steps = 3 # few"))
    assert run.config().settings == made.resolved("a", tmp_path).settings
    assert "lr = " in kept
