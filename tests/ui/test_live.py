"""The page's view of a run is what the folder says, however and whenever it is read."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from studio import events, pictures, reward_reading
from studio.events import Event
from studio.store import Run
from studio.ui import live_log, live_previews, live_state, live_words
from studio.ui.jobs_process import Job
from studio.ui.live import Live, Reader, Readers
from studio.ui.live_numbers import MOST, Numbers, drawing, named
from studio.ui.live_tail import Tail

NOW = 1_800_000_000.0


def made(folder: Path, *said: Event, steps: int = 100) -> Run:
    """A run's folder with these events."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.toml").write_text(f'trainer = "dreambooth"\nmodel = "toy"\n\n[dreambooth]\nsteps = {steps}\n')
    for event in said:
        events.append(folder / "events.jsonl", event)
    return Run(folder)


def step(number: int, /, at: float = NOW, **numbers: float) -> Event:
    """A training step's numbers."""
    return Event("train", number, numbers or {"loss": 1.0 / number}, time=at)


def said(name: str, phase: str = "train", /, at: int = 0, when: float = NOW, **fields: Any) -> Event:
    """A named event."""
    return Event(phase, at, event=name, fields=fields, time=when)


def live(run: Run) -> Live:
    """The run, read from the start."""
    return Reader(run).look()


@pytest.mark.parametrize("seed", range(5))
def test_a_file_read_while_it_grows_says_what_it_says_at_once(tmp_path: Path, seed: int):
    run = made(tmp_path / "a", *(step(number) for number in range(1, 60)), said("done", at=59))
    whole, part = (run.folder / "events.jsonl").read_bytes(), tmp_path / "grows.jsonl"
    tail, found, dice = Tail(part), [], random.Random(seed)
    cuts = sorted(dice.sample(range(len(whole)), 25))
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        with part.open("ab") as file:
            file.write(whole[start:end])
        anew, new = tail.read()
        assert not anew
        found += new
    assert [event.line() for event in found] == [event.line() for event in run.events()]


def test_a_torn_line_is_left_out_and_another_file_is_read_anew(tmp_path: Path):
    run = made(tmp_path / "a", step(1))
    file = run.folder / "events.jsonl"
    with file.open("ab") as opened:
        opened.write(b'{"time": 1, "phase": "tr')
    tail = Tail(file)
    assert [event.step for event in tail.read()[1]] == [1]
    run.log(step(2))
    assert [event.step for event in tail.read()[1]] == [2]
    file.unlink()
    assert tail.read() == (True, [])
    for number in range(3, 40):
        run.log(step(number, at=NOW + 1))
    anew, found = tail.read()
    assert [event.step for event in found] == list(range(3, 40))
    file.write_bytes(b"[1]\n" + (step(1).line() + "\n").encode() * 50)  # longer than before, and another one
    anew, found = tail.read()
    assert anew
    assert len(found) == 50


def test_a_short_run_is_drawn_as_it_is_and_a_long_one_with_its_mean(tmp_path: Path):
    run = made(tmp_path / "a", *(step(number) for number in range(1, 300)))
    assert dict(live(run).numbers.points("loss")) == run.curve("loss")
    numbers = Numbers()
    for number in range(1, 8001):
        numbers.take(step(number, loss=float(number % 7)))
    points = numbers.points("loss")
    assert len(points) <= MOST
    assert sum(value for _, value in points) / len(points) == pytest.approx(3.0, abs=0.01)
    assert [at for at, _ in points] == sorted(at for at, _ in points)
    table = drawing(numbers.curve())
    assert table is not None
    assert {row[2] for row in table["data"]} == {"each step", "running mean"}
    assert drawing({"nothing": []}) is None


def test_a_run_that_goes_on_from_a_checkpoint_does_its_steps_again(tmp_path: Path):
    run = made(tmp_path / "a", *(step(number, loss=1.0) for number in range(1, 31)))
    reader = Reader(run)
    reader.look()
    for number in (21, 22):
        run.log(step(number, loss=2.0))
    points = dict(reader.look().numbers.points("loss"))
    assert max(points) == 22
    assert (points[20], points[21]) == (1.0, 2.0)
    assert reader.look().left(NOW) == ""  # the old start's speed says nothing of this one


def test_numbers_that_are_none_leave_a_gap(tmp_path: Path):
    run = made(tmp_path / "a", step(1, loss=1.0), step(2, loss=float("nan")), step(3, loss=float("inf")))
    assert live(run).numbers.points("loss") == [(1, 1.0)]


def look(number: int, /, **more: float) -> Event:
    """A step at which the guard of a run by rewards looked."""
    seen = {
        "reward/heldout-prompts": 0.5, "heldout/clip": 0.3, "start/heldout/clip": 0.2, "diversity": 0.4, "kl": 0.01,
        "guard/best": float(number),
    }  # fmt: skip
    return step(number, reward=0.1 * number, **seen, **more)


@pytest.mark.parametrize("cut", [1, 3, 5, 6])
def test_a_run_by_rewards_has_the_course_that_its_report_has(tmp_path: Path, cut: int):
    story = [step(1, reward=0.1), look(2), step(3, reward=0.2), look(4), said("ended", at=5, message="kl is too large")]
    story.append(look(6, **{"guard/back": 4.0}))
    run = made(tmp_path / "a", *story[:cut])
    assert live(run).numbers.course() == reward_reading.read(run.folder)
    assert bool(live(run).numbers.panels()) == (cut > 1)
    assert live(run).numbers.main == "reward"
    assert any("rolled back" in text.lower() for text in live_words.outcome(live(run), "done")) == (cut == 6)
    (run.checkpoints / "step-000004").mkdir(parents=True)
    assert live_state.buttons(live(run), "done").back == (1 < cut < 6), "who is back already has nowhere to go"
    preview(run, "000006-00.png")
    (shown,) = live_previews.found(run.folder, live(run).numbers.course())[1]
    assert shown.title == ("step 6, back at step 4" if cut == 6 else "step 6")


def test_time_left_is_what_the_last_minute_says(tmp_path: Path):
    run = made(tmp_path / "a", *(step(number, at=NOW + number / 2) for number in range(1, 41)))
    assert live(run).left(NOW + 20) == "30 s"  # 60 steps at 2 a second
    assert live(run).left(NOW + 25) == "25 s"
    run.log(said("stopped", at=40))
    assert live(run).left(NOW + 20) == ""


END = {"done": "done", "stopped": "stopped", "failed": "failed"}


@pytest.mark.parametrize("name", END)
def test_how_a_run_ended_stays_until_it_is_started_again(tmp_path: Path, name: str):
    run = made(tmp_path / "a", step(1), said(name, "check", message="why"))
    assert live_state.doing(live(run), now=NOW + 100) == END[name]
    run.log(said("preview", "preview", path="samples/000001-00.png"))  # drawn afterwards
    assert live_state.doing(live(run), now=NOW + 100) == END[name]
    run.log(said("message", "load", when=NOW + 200))
    assert live_state.doing(live(run), now=NOW + 201) == "running"
    assert live_state.doing(live(run), now=NOW + 300) == "interrupted"


def test_whoever_trains_in_the_folder_is_seen(tmp_path: Path):
    run = made(tmp_path / "a", step(1))
    assert live_state.doing(live(run), now=NOW + 100) == "interrupted"
    with FileLock(run.folder / ".lock"):
        assert live_state.doing(live(run), now=NOW + 100) == "running"
        run.stop_file.touch()
        assert live_state.doing(live(run), now=NOW + 100) == "stopping"
    with FileLock(run.folder / ".lock", timeout=0):
        pass  # looking has kept nothing


def test_the_queue_is_believed_before_the_events(tmp_path: Path):
    run = made(tmp_path / "a", step(1), said("stopped"))
    job = Job("1", ("train",), str(run.folder), run="a")
    assert live_state.doing(live(run), job) == "waiting"
    failed = Job("1", ("train",), str(run.folder), run="a", end="failed", ended=NOW + 5)
    assert live_state.doing(live(run), failed) == "failed"
    fresh = made(tmp_path / "b")
    assert live_state.doing(live(fresh)) == "new"
    dropped = Job("2", ("train",), str(fresh.folder), run="b", end="cancelled")
    assert live_state.doing(live(fresh), dropped) == "cancelled"
    assert "taken out of the queue" in live_words.status(live(fresh), "cancelled")
    assert live_state.buttons(live(fresh), "cancelled").resume


def test_the_buttons_do_what_can_be_done(tmp_path: Path):
    run = made(tmp_path / "a", step(1))
    wanted = {"running": (True, False, True), "stopped": (False, True, False), "done": (False, False, False)}
    for what, on in wanted.items():
        found = live_state.buttons(live(run), what)  # type: ignore[arg-type]
        assert (found.stop, found.resume, found.sample) == on
    (run.checkpoints / "step-000001").mkdir(parents=True)
    assert live_state.buttons(live(run), "done").sample
    assert live_state.buttons(live(run), "done", writable=False) == live_state.Buttons(False, False, False, False)


def preview(run: Run, name: str, prompt: str = "a dog", seed: int = 0) -> None:
    """A small picture with its recipe."""
    pictures.save(Image.new("RGB", (4, 4)), run.folder / "samples" / name, prompt=prompt, seed=seed)


def test_previews_stand_beside_the_base_model_by_prompt(tmp_path: Path):
    run = made(tmp_path / "a")
    assert list(live_previews.pairs(*live_previews.found(run.folder)[:1], None)) == []
    before = live_previews.stamp(run.folder)
    for label in ("base", "000100", "000020", "pick"):
        for number in range(2):
            preview(run, f"{label}-{number:02}.png", seed=number)
    preview(run, "mine.png")
    assert live_previews.stamp(run.folder) != before
    base, own = live_previews.found(run.folder)
    assert [one.title for one in own] == ["step 20", "step 100", "recommended checkpoint"]
    shown = [(path.name, text) for path, text in live_previews.pairs(base, own[0])]
    assert [name for name, _ in shown] == ["base-00.png", "000020-00.png", "base-01.png", "000020-01.png"]
    assert shown[3][1] == "step 20: a dog (seed 1)"
    (run.samples / "000020-00.png").write_bytes(b"no picture")
    assert live_previews.caption("step 20", run.samples / "000020-00.png") == "step 20"


def test_the_log_keeps_no_secret_and_says_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_TOKEN", "a-very-secret-value")
    run = made(tmp_path / "a", said("warning", message="the pictures are small"), step(1))
    (run.folder / "job.log").write_text(
        step(1).line() + "\nstudio: warning: the pictures are small\nlibrary says a-very-secret-value\n"
    )
    text = live_log.text(run.folder, live(run).lines)
    assert text.count("the pictures are small") == 1
    assert "library says <secret>" in text
    assert "very-secret" not in text


def test_a_phase_that_counts_is_seen_in_its_process_log(tmp_path: Path):
    run = made(tmp_path / "a", said("message", "cache"))
    lines = [said("progress", "cache", done=number, total=40).line() for number in range(8)]
    (run.folder / "job.log").write_text("\n".join(lines) + "\nsomebody warns\n" + lines[0][:20])
    found = live_log.counting(run.folder)
    assert found is not None
    assert (found.phase, found.done, found.total) == ("cache", 7, 40)
    status = live_words.status(live(run), "running", NOW + 1)
    assert 'value="7" max="40"' in status
    (run.folder / "job.log").write_text("\n".join([*lines, step(1).line()]))
    assert live_log.counting(run.folder) is None


def test_scoring_says_which_checkpoint_of_how_many_beside_the_steps(tmp_path: Path):
    run = made(tmp_path / "a", step(20), said("message", "score"), steps=60)
    place = {"what": "checkpoint 2 of 3", "round": 3, "rounds": 6, "since": NOW - 100}
    (run.folder / "job.log").write_text(said("progress", "score", done=20, total=40, **place).line())
    status = live_words.status(live(run), "running", NOW + 1)
    for words in ("scoring checkpoint 2 of 3; 3 of 6 to draw", "20 of 40", "<small>steps</small> 20 of 60"):
        assert words in status
    assert "<small>scoring left</small> about 2 min 19 s" in status  # 2.5 of 6 rounds in 100 s, a second ago
    (run.folder / "job.log").write_text(said("progress", "score", done=0, total=40, round="x", since=None).line())
    assert "scoring left" not in live_words.status(live(run), "running", NOW + 1)


def test_the_mean_above_is_where_the_running_mean_ends_and_both_say_over_how_many_steps(tmp_path: Path):
    for count, span in ((5, 5), (60, 20), (999, 99), (2001, 100)):
        dice, numbers = random.Random(count), Numbers()
        for at in range(1, count + 1):
            numbers.take(step(at, loss=dice.random()))
        curve, mean = numbers.curve(), numbers.mean()
        assert mean == (pytest.approx(curve["running mean"][-1][1]), span)
        assert curve["running mean"][-1][0] == count
        assert len(curve["running mean"]) <= MOST
    rough, smooth = ([value for _, value in curve[name][1:]] for name in ("each step", "running mean"))
    assert max(smooth) - min(smooth) < max(rough) - min(rough)
    assert named("loss by step", curve, 100) == "loss by step: blue each step, orange mean of 100 steps"
    run = made(tmp_path / "a", *(step(at, loss=float(at)) for at in range(1, 61)))
    assert "<small>mean loss of 20 steps</small> 50.5" in live_words.status(live(run), "done", NOW)


def test_a_run_that_goes_on_says_nothing_of_its_start_before(tmp_path: Path):
    run = made(tmp_path / "a", *(step(at, at=NOW + at) for at in range(1, 9)), said("stopped", at=8, message="stopped"))
    assert "stopped" in live_words.outcome(live(run), "stopped")
    assert live_words.outcome(live(run), "running") == []
    assert "speed" not in live_words.status(live(run), "running", NOW + 10)
    run.log(said("message", "load", when=NOW + 20))
    run.log(step(9, at=NOW + 25))
    assert "speed" not in live_words.status(live(run), "running", NOW + 26)
    run.log(step(10, at=NOW + 26))
    assert "<small>speed</small> 1 steps/s" in live_words.status(live(run), "running", NOW + 26)


def test_a_run_cannot_write_into_the_page(tmp_path: Path):
    bad = "<img src=x onerror=alert(1)>"
    run = made(tmp_path / "a", said("warning", message=bad), Event(bad, 1, event="message", fields={"message": bad}))
    shown = live(run)
    assert "<img" not in live_words.notes(shown, [bad])
    assert "<img" not in live_words.status(shown, "running", NOW)


def test_a_silent_run_says_since_when(tmp_path: Path):
    run = made(tmp_path / "a", step(1))
    assert "last news" not in live_words.status(live(run), "running", NOW + 5)
    assert "2 min ago; its process is at work" in live_words.status(live(run), "running", NOW + 120)
    (run.folder / "job.log").touch()  # a long phase counts there, or a library prints
    os.utime(run.folder / "job.log", (NOW + 100, NOW + 100))
    assert "last news" not in live_words.status(live(run), "running", NOW + 120)
    slow = made(tmp_path / "b", step(1), step(2, NOW + 60))
    assert "last news" not in live_words.status(live(slow), "running", NOW + 200)  # a step takes a minute
    assert "4 min ago" in live_words.status(live(slow), "running", NOW + 300)


def test_any_number_of_visitors_see_the_same(tmp_path: Path):
    runs = [made(tmp_path / f"run-{number}", steps=200) for number in range(40)]  # more than are remembered
    readers, wrong = Readers(), []

    def visit() -> None:
        for _ in range(3):
            for run in runs:
                with readers.at(run.folder) as found:
                    points = [at for at, _ in found.numbers.points("loss")]
                if points != list(range(1, len(points) + 1)):
                    wrong.append(points)

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for number in range(1, 6):
        for run in runs:
            run.log(step(number))
    for visitor in visitors:
        visitor.join()
    assert not wrong
    with readers.at(runs[0].folder) as found:
        assert (found.numbers.last, found.rate.total) == (5, 200)


def test_stamps_change_where_something_is_new_and_nowhere_else(tmp_path: Path):
    run = made(tmp_path / "a", step(1))
    reader = Reader(run)
    before = reader.look().stamps()
    assert reader.look().stamps() == before
    for add, parts in (
        (lambda: run.log(step(2)), {"numbers"}),
        (lambda: run.log(said("warning", message="x")), {"notes", "log"}),
        (lambda: (time.sleep(0.01), preview(run, "base-00.png")), {"previews"}),
    ):
        add()
        now = reader.look().stamps()
        assert {part for part in now if now[part] != before[part]} == parts
        before = now


def test_reading_runs_needs_neither_torch_nor_gradio():
    code = (
        "import sys; import studio.ui.live, studio.ui.live_words, studio.ui.live_ask, studio.ui.live_queue; "
        "sys.exit(' '.join({'torch', 'gradio', 'diffusers'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_number_that_stays_is_drawn_as_a_level_line() -> None:
    lines = {"value": [(step, 0.0001 * (1 + 1e-15 * step)) for step in range(1, 9)]}
    drawn = drawing(lines)
    assert drawn is not None
    assert {value for _, value, _ in drawn["data"]} == {0.0001}
