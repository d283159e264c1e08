"""A run that is asked to stop does so within a step, in every phase; the same command then ends as if it had not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.events import Event
from studio.pipelines import backbone, sampling
from studio.stop import LOOK, SIGNALS, Stop, Stopped, before_listening, listening, unbegun
from studio.store import Run, Store
from studio.train import train
from tests import runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    return train(runs.config(data, tmp_path_factory.mktemp("straight")))


def interrupt(folder: Path) -> None:
    signal.raise_signal(signal.SIGINT)


def terminate(folder: Path) -> None:
    signal.raise_signal(signal.SIGTERM)


def touch(folder: Path) -> None:
    (folder / "stop").touch()


MOMENTS = {
    "load": ("message", "load", 0),
    "base previews": ("progress", "preview", 0),
    "first step": ("", "train", 1),
    "step of a checkpoint": ("", "train", 3),
    "preview on the way": ("progress", "preview", 3),
    "after a checkpoint": ("checkpoint", "train", 6),
    "between": ("", "train", 5),
    "last step": ("", "train", runs.STEPS),
    "last preview": ("progress", "preview", runs.STEPS),
    "export": ("message", "export", runs.STEPS),
    "check": ("message", "check", runs.STEPS),
}
CASES = [(touch, moment) for moment in MOMENTS if moment != "check"] + [
    (interrupt, "load"),
    (interrupt, "preview on the way"),
    (interrupt, "export"),
    (interrupt, "check"),
    (terminate, "between"),
]


@pytest.mark.parametrize(("ask", "moment"), CASES)
def test_stopped_anywhere_and_resumed_equals_straight(
    data: Path, tmp_path: Path, straight: Path, ask: Callable[[Path], None], moment: str
):
    event, phase, step = MOMENTS[moment]
    config = runs.config(data, tmp_path)
    folder = Store(tmp_path).create(config).folder
    report = runs.when(event, phase, step, lambda: ask(folder))
    with pytest.raises(Stopped):
        train(config, report)
    last = list(Run(folder).events())[-1]
    assert (last.event, last.step) == ("stopped", step)
    found = Run(folder).latest()
    assert (found.step if found else 0) == step
    assert ("kept: step-" in last["message"]) == (step > 0)
    assert train(config) == folder
    assert runs.numbers(folder) == runs.numbers(straight)
    assert runs.files(folder) == runs.files(straight)


def test_stopped_while_it_fills_the_cache(data: Path, tmp_path: Path):
    config, folder = runs.config(data, tmp_path, data={"crop": "center"}), tmp_path / "one"
    with pytest.raises(Stopped):
        train(config, runs.when("progress", "cache", 0, lambda: touch(folder)))
    assert list(Run(folder).events())[-1].phase == "cache"
    assert not Run(folder).begun()


def test_the_second_signal_stops_at_once_and_the_state_is_valid(data: Path, tmp_path: Path, straight: Path):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    config, folder = runs.config(data, tmp_path), tmp_path / "one"
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(config, runs.when("", "train", 5, twice))
    assert not isinstance(stopped.value, Stopped)
    assert "at once" in list(Run(folder).events())[-1]["message"]
    assert train(config) == folder
    assert runs.numbers(folder) == runs.numbers(straight)
    assert runs.files(folder) == runs.files(straight)


def test_a_new_run_stopped_while_it_loads_says_so_in_its_folder(data: Path, tmp_path: Path, straight: Path):
    told: list[Event] = []

    def report(event: Event) -> None:
        told.append(event)
        if event.event == "message":
            signal.raise_signal(signal.SIGTERM)

    config = runs.config(data, tmp_path)
    with pytest.raises(Stopped):
        train(config, report)
    assert [event.event for event in told] == ["message", "stopped"]
    assert [event.event for event in Run(tmp_path / "one").events()] == ["message", "stopped"]
    assert runs.files(train(config)) == runs.files(straight)


def test_signals_go_back_to_whom_they_belonged(tmp_path: Path):
    before = signal.getsignal(signal.SIGINT)
    with listening(tmp_path / "stop"):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_a_stop_file_ends_a_call_that_looks_at_nothing(tmp_path: Path):
    began = time.monotonic()

    def download() -> None:
        threading.Timer(0.1, (tmp_path / "stop").touch).start()
        while time.monotonic() - began < 20:
            time.sleep(0.01)

    with pytest.raises(Stopped), listening(tmp_path / "stop"):
        download()
    assert time.monotonic() - began < 10


class Thing:
    """What a weak reference can be made to."""


def test_a_request_that_python_swallows_is_made_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """As in the callbacks of weak references by which the plan counts tensors."""
    began = time.monotonic()
    hook = sys.unraisablehook

    def swallowed() -> None:
        thing = Thing()
        weakref.finalize(thing, terminate, tmp_path)
        del thing
        while time.monotonic() - began < 20:
            time.sleep(0.01)

    with pytest.raises(Stopped), listening(tmp_path / "stop"):
        swallowed()
    assert time.monotonic() - began < 10
    assert sys.unraisablehook is hook
    assert not capfd.readouterr().err


def test_a_swallowed_request_that_the_run_has_seen_is_not_made_twice(tmp_path: Path):
    with listening(tmp_path / "stop") as stop:
        thing = Thing()
        weakref.finalize(thing, terminate, tmp_path)
        del thing
        with pytest.raises(Stopped):
            stop.check()
        time.sleep(3 * LOOK)  # what a stopped run writes last is not interrupted


def test_while_state_could_be_lost_nothing_is_interrupted(tmp_path: Path):
    with listening(tmp_path / "stop") as stop:
        stop.at_once = False
        signal.raise_signal(signal.SIGTERM)
        assert stop()
    assert stop()


def test_a_request_stays_when_its_file_goes(tmp_path: Path):
    stop = Stop(tmp_path / "stop")
    assert not stop()
    (tmp_path / "stop").touch()
    assert stop()
    (tmp_path / "stop").unlink()
    assert stop()


def test_a_sampler_stops_before_its_next_step():
    model, stop = backbone.load("toy"), Stop()
    predict, calls = model.predict, []

    def counted(*args: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            stop.asked.set()
        return predict(*args)  # type: ignore[arg-type]

    model.predict = counted  # type: ignore[method-assign, assignment]
    with pytest.raises(Stopped), stop.between_calls(model):
        list(sampling.sample(model, ["a"], [0], steps=20, guidance_scale=1.0))
    assert len(calls) == 3
    assert model.predict is counted


SWALLOWING = """
import os, signal, sys, time
from studio import cli

def dispatch(words):
    try:  # an import that swallows what it raises
        os.kill(os.getpid(), signal.{signal})
        time.sleep(5)
    except BaseException as error:
        if words != ["train"]:
            raise
    return 0

cli.dispatch = dispatch
cli.main([{word!r}])
"""


@pytest.mark.parametrize(
    ("word", "name", "said"),
    [
        ("train", "SIGTERM", "studio: stopped before anything was written\n"),
        ("train", "SIGINT", "studio: stopped before anything was written\n"),
        ("evaluate", "SIGTERM", "studio: stopped\n"),
        ("evaluate", "SIGINT", "studio: stopped\n"),
    ],
)
def test_a_signal_in_the_first_seconds_is_one_line(word: str, name: str, said: str, tmp_path: Path, root: Path):
    code = SWALLOWING.format(signal=name, word=word)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)
    assert not list(tmp_path.iterdir())


def test_once_a_run_has_listened_something_may_be_written(tmp_path: Path):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        before_listening(train=True)
        assert {signal.getsignal(number) for number in SIGNALS} == {unbegun}
        with listening(tmp_path / "stop"):
            pass
        assert unbegun not in {signal.getsignal(number) for number in SIGNALS}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
