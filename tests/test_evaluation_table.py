"""The table of numbers: one group to a row, no number is `-`, and what `scores.json` says."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from studio.evaluation import table
from studio.evaluation.homes import Home
from studio.evaluation.progress import Counting
from studio.evaluation.records import Evaluation, Made, Score, Source
from studio.evaluation.targets import Target
from studio.events import Event
from studio.pipelines.protocols import About

NAN = math.nan
BASE, MINE = Source("base", "toy", class_word="dog"), Source("mine", "toy", "a.safetensors", 1, 0, "sks", "dog")


def score(name: str, group: str, source: str, of: str = "", **values: Any) -> Score:
    numbers = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 2, "pictures": (0, 1), "values": (0.4, 0.6)} | values
    return Score(About(name, "enc", "", group, "higher"), source, of, **numbers)


def evaluation(*scores: Score) -> Evaluation:
    made = [
        Made(f"pictures/mine/one-00-{n}.png", "mine", "one", "a {subject}", "a sks dog", "a dog", n) for n in (0, 1)
    ]
    return Evaluation([BASE, MINE], made, list(scores))


def text(found: Evaluation) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=160).print(table.table(found))
    return out.getvalue().splitlines()


def test_numbers_of_two_groups_never_share_a_row():
    found = evaluation(*(score("alike", group, source) for group in ("a", "b") for source in ("base", "mine")))
    lines = [line for line in text(found) if line.startswith("alike")]
    assert len(lines) == 2
    assert len(table.scores(found, "mine", Path("e"), Path())) == 2


def test_what_is_no_number_is_a_dash():
    found = evaluation(score("set", "a", "mine", low=NAN, high=NAN), score("lost", "b", "mine", value=NAN, n=0))
    lines = text(found)
    assert "0.500 (- to -)" in lines[1]
    assert lines[2].split()[2:4] == ["-", "-"]
    kept = json.dumps(table.scores(found, "mine", Path("e"), Path()), allow_nan=False)
    assert json.loads(kept)["lost"]["value"] is None


def test_a_star_means_that_the_interval_of_the_difference_is_on_one_side():
    clear = score("up", "a", "mine", base=0.3, change=0.2, change_low=0.1, change_high=0.3)
    vague = score("same", "b", "mine", base=0.3, change=0.2, change_low=-0.1, change_high=0.3)
    lines = text(evaluation(clear, vague))
    assert "*" in lines[1]
    assert "*" not in lines[2]


def test_only_what_has_no_whole_is_told_by_set():
    found = evaluation(score("all", "a", "mine"), score("all", "a", "mine", "one"), score("part", "b", "mine", "class"))
    assert [line.split("  ")[0].strip() for line in text(found)[1:]] == ["all \u2191", "part \u2191 (class)"]
    assert table.scores(found, "mine", Path("e"), Path())["all"]["sets"] == {"one": 0.5}


def test_the_files_of_a_run_lead_to_its_pictures(tmp_path: Path):
    target = Target(MINE, tmp_path / "a.safetensors")
    home = Home(tmp_path / "evaluation", tmp_path)
    written = table.write_scores(evaluation(score("all", "a", "mine")), [target], home)
    assert written == [tmp_path / "scores.json"]
    kept = json.loads(written[0].read_text())["all"]
    assert kept["pictures"] == ["evaluation/pictures/mine/one-00-0.png", "evaluation/pictures/mine/one-00-1.png"]
    assert (kept["value"], kept["low"], kept["high"], kept["n"], kept["encoder"]) == (0.5, 0.4, 0.6, 2, "enc")


def counted(kind: Literal["plain", "live"]) -> str:
    out = io.StringIO()
    with Counting(kind, out) as progress:
        for done in range(4):
            progress(Event("draw", event="progress", fields={"done": done, "total": 8}, time=1e6 + 10 * done))
        progress(Event("draw", event="note", fields={"message": "said at the end"}))
    return out.getvalue()


def test_the_time_that_is_left_is_told():
    lines = counted("plain").splitlines()
    assert len(lines) == 4
    assert "3/8" in lines[-1]
    assert "0:50 left" in lines[-1]
    assert "draw" in counted("live")


@pytest.mark.parametrize("wait", [20.0, 300.0])
def test_the_first_picture_of_a_batch_is_no_speed(wait: float):
    out = io.StringIO()
    times = [0.0, *(wait + 0.2 * n for n in range(8)), *(2 * wait + 1.4 + 0.2 * n for n in range(2))]
    with Counting("plain", out) as progress:
        for done, time in enumerate(times):  # eight pictures come at once after a wait
            progress(Event("draw", event="progress", fields={"done": done, "total": 80}, time=1e6 + time))
    lines = [line for line in out.getvalue().splitlines() if " left" in line]
    assert len(lines) == 1  # of the second batch: before it is there, nobody knows how long one takes
    minutes, seconds = lines[0].split(" left")[0].split()[-1].split(":")
    assert 60 * int(minutes) + int(seconds) == pytest.approx(71 / 8 * (wait + 1.4), abs=1)
