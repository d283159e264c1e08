"""What a run by rewards shows of itself: the course out of its events, a picture, and a section of its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studio import reward_page, reward_reading, reward_section, show
from studio.events import Event, append
from studio.store import Run

WHY = "held-out clip-t fell from 0.3 (step 4) to 0.2 while the trained reward rose from 5 to 9: back to step 4"


def numbers(step: int, **more: float) -> Event:
    return Event("train", step, {"loss": -1.0, "reward": 5.0 + step, **more})


def look(step: int, held: float, **more: float) -> Event:
    seen = {"reward/heldout-prompts": 5.0 + step, "heldout/clip-t": held, "diversity": 0.5, "diversity/across": 0.6}
    return numbers(step, **seen, kl=0.01 * step, **more)


def write(folder: Path, *found: Event) -> Path:
    for event in found:
        append(folder / "events.jsonl", event)
    return folder


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that the guard has ended."""
    begun: dict[str, Any] = {"start/heldout/clip-t": 0.25, "start/kl": 0.0, "guard/best": 2}
    return write(
        tmp_path, numbers(1), look(2, 0.28, **begun), numbers(3), look(4, 0.3, **{"guard/best": 4}), numbers(5),
        look(6, 0.2, **{"guard/best": 4}), look(8, 0.2, **{"guard/back": 4}), Event("train", 8, event="ended",
        fields={"message": WHY}), Event("export", 8, event="message", fields={"message": "wrote a file"}),
    )  # fmt: skip


def test_the_course_has_the_start_every_look_the_stop_and_the_roll_back(stopped: Path) -> None:
    course = reward_reading.read(stopped)
    assert course is not None
    assert course.points("heldout/clip-t") == [(0, 0.25), (2, 0.28), (4, 0.3), (6, 0.2), (8, 0.2)]
    assert (course.stop, course.back, course.best, course.looks) == ((8, WHY), 4, 4, 4)
    panels = {panel.title: panel.lines for panel in course.panels()}
    assert list(panels) == ["trained reward", "held-out clip-t", "diversity", "kl: distance from the start"]
    assert panels["trained reward"].keys() == {"while training", "held-out prompts"}
    assert len(panels["trained reward"]["while training"]) == 7


@pytest.mark.parametrize("why", [WHY, "somebody's own reason"])
def test_show_says_why_a_run_is_over_and_what_it_went_back_to(stopped: Path, why: str) -> None:
    run = Run(stopped)
    assert show.ending(run) == ""
    write(stopped, Event("done", 8, event="done", fields={"path": str(stopped), "ended": why}))
    said = show.ending(run)
    assert said.startswith(why)
    assert said.count("back to step 4") == 1


def test_of_a_step_that_was_done_again_the_last_counts_and_a_run_that_went_on_has_not_ended(stopped: Path) -> None:
    write(stopped, look(8, 0.4, **{"guard/best": 8}), look(10, float("nan"), **{"guard/best": 8}))
    course = reward_reading.read(stopped)
    assert course is not None
    assert (course.stop, course.back, course.best) == (None, None, 8)
    assert course.points("heldout/clip-t")[-1] == (8, 0.4)


def test_a_run_without_a_guard_has_no_course_no_picture_and_no_section(tmp_path: Path) -> None:
    write(tmp_path, numbers(1), numbers(2))
    assert reward_reading.read(tmp_path) is None
    assert reward_page.draw(tmp_path) is None
    assert reward_section.section(tmp_path) is None
    assert reward_section.section(None) is None
    assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"]


def test_the_picture_is_written_whole_and_the_same_each_time(stopped: Path) -> None:
    file = reward_page.draw(stopped)
    assert file == stopped / "reward.png"
    first = file.read_bytes()
    with Image.open(file) as picture:
        assert picture.width > picture.height > 300
        assert len(picture.convert("RGB").getcolors(2**24) or ()) > 50
    reward_page.draw(stopped)
    assert file.read_bytes() == first
    assert sorted(one.name for one in stopped.iterdir()) == ["events.jsonl", "reward.png"]


def test_the_section_tells_what_became_of_the_run(stopped: Path) -> None:
    found = reward_section.section(stopped)
    assert found is not None
    assert found["story"] == f"The guard ended the run at step 8: {WHY}."
    assert [chart["name"] for chart in found["charts"]][:2] == ["trained reward", "held-out clip-t"]
    assert "held-out prompts, step 4: 0.3" in found["charts"][1]["drawing"]
    assert found["charts"][0]["lines"] == ["while training", "held-out prompts"]
    assert not found["charts"][1]["lines"]


def test_a_strangers_name_stays_words_and_a_place_is_not_told(tmp_path: Path) -> None:
    name = "heldout//home/ann/judge<script>"
    write(tmp_path, numbers(2, **{name: 0.5, "guard/best": 2}), numbers(4, **{name: 0.6, "guard/best": 4}))
    found = reward_section.section(tmp_path)
    assert found is not None
    assert "ann" not in str(found)
    assert "<script>" not in "".join(chart["drawing"] for chart in found["charts"])
    assert found["story"].endswith("found no reason to end the run. Its best look was that of step 4.")


def test_many_steps_are_thinned_and_keep_their_mean() -> None:
    points = [(step, float(step)) for step in range(10_000)]
    few = reward_section.thinned(points)
    assert len(few) == 100
    assert sum(value for _, value in few) / 100 == pytest.approx(9999 / 2)
    assert reward_section.thinned(points[:5]) == points[:5]
