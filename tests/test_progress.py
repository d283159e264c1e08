"""What a person, a log file and a program see of a run."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import pytest

from studio.events import Event
from studio.progress import Progress, words
from studio.rate import Rate, clock, lasting

START = 1_000_000.0
EVENTS = [
    Event("load", event="message", fields={"message": "dreambooth on [toy]"}, time=START),
    Event("cache", event="progress", fields={"done": 1, "total": 2}, time=START),
    Event("cache", event="progress", fields={"done": 2, "total": 2}, time=START),
    *(Event("train", step, {"loss": 0.5}, time=START + step / 10) for step in range(1, 101)),
    Event("preview", 100, event="preview", fields={"path": Path("grid.png")}, time=START + 11),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_json_is_one_event_per_line():
    out = io.StringIO()
    with Progress(100, "json", out) as progress:
        for event in EVENTS:
            progress(event)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [event.as_dict() for event in EVENTS]


def test_plain_lines_are_few_and_miss_no_event_and_no_end():
    out = io.StringIO()
    with Progress(100, "auto", out) as progress:
        for event in EVENTS:
            progress(event)
    text = out.getvalue()
    assert len(text.splitlines()) < 12
    for part in ("dreambooth on [toy]", "2/2", "100/100", "loss 0.5000", "10 it/s", "grid.png"):
        assert part in text


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()], ids=["plain", "live"])
def test_a_failure_is_left_to_the_one_line_of_the_command(out: io.StringIO):
    failed = Event("train", 3, event="failed", fields={"message": "the loss is nan", "exit_code": 5}, time=START)
    with Progress(100, "auto", out) as progress:
        progress(failed)
    assert "nan" not in out.getvalue()
    for_programs = io.StringIO()
    Progress(100, "json", for_programs)(failed)
    assert json.loads(for_programs.getvalue()) == failed.as_dict()


def test_what_an_event_is_called_is_said_once():
    assert words(Event("train", 3, event="stopped", fields={"message": "stopped; kept: step-000003"})) == (
        "stopped; kept: step-000003"
    )
    assert words(Event("train", 3, event="warning", fields={"message": "small"})) == "warning: small"


def test_a_terminal_shows_every_phase():
    out = Terminal()
    with Progress(100, "auto", out) as progress:
        for event in EVENTS:
            progress(event)
    for part in ("dreambooth on [toy]", "cache", "train", "100/100", "grid.png"):
        assert part in out.getvalue()


def test_when_the_reader_has_gone_the_run_is_interrupted_once(monkeypatch: pytest.MonkeyPatch):
    sent: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", sent.append)
    with Progress(100, "json", Closed()) as progress:
        for event in EVENTS:
            progress(event)
    assert sent == [signal.SIGINT]


def test_the_rate_is_that_of_the_last_minute_and_the_mean_is_unbiased():
    rate = Rate(1000)
    for step in range(1, 11):
        rate.add(Event("train", step, {"loss": 2.0}, time=START + step))
    for step in range(11, 400):
        rate.add(Event("train", step, {"loss": 2.0}, time=START + 100 + step / 2))
    assert rate.speed == pytest.approx(2.0)
    assert rate.mean == pytest.approx(2.0)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (61.9, "1:01"), (3725, "1:02:05")])
def test_times_read_as_clocks(seconds: float, words: str):
    assert clock(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89.4, "89 s"), (90, "1 min 30 s"), (481, "8 min 1 s"), (1620, "27 min"), (3600, "1 h"),
     (7530, "2 h 5 min"), (50 * 3600, "2 days"), (1e9, "11,574 days")],
)  # fmt: skip
def test_times_in_a_sentence_have_units(seconds: float, words: str):
    assert lasting(seconds) == words
