"""What the Train tab says is what the command does: the command reads back as the run that is started."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from studio import flags
from studio.config import flat
from studio.pipelines.errors import DataError, UsageError
from studio.ui import draft as drafts
from studio.ui import train_actions
from studio.ui.jobs import Queue
from studio.ui.place import Place, guest, home
from studio.ui.plan_line import LATER, Planner


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return home(tmp_path / "runs", (tmp_path,))


def ready(**more: object) -> drafts.Draft:
    return drafts.put(drafts.fresh(), {"model": "toy", "data.folder": "subject:fox", "steps": 3, "run": "mine", **more})


def test_the_command_does_the_same(place: Place) -> None:
    draft = ready(lr=0.5)
    command, toml, wrong = train_actions.check(draft, place)
    assert wrong == ""
    assert "steps = 3" in toml
    read, _ = flags.read(shlex.split(command)[2:])
    assert flat(read) == flat(drafts.config(draft, place))


def test_start_puts_one_run_into_the_queue(place: Place) -> None:
    run, said = train_actions.start(ready(), place)
    assert run == "mine"
    assert "begins" in said or "queue" in said
    assert [job.run for job in Queue(place.runs).jobs()] == ["mine"]
    assert train_actions.start(ready(), place)[0] == "mine"
    assert len(Queue(place.runs).jobs()) == 1, "pressed twice is started once"


def test_nothing_starts_that_cannot_run(place: Place, tmp_path: Path) -> None:
    wrong = drafts.take(ready(), "steps", "many")
    assert "not 'many'" in train_actions.check(wrong, place)[2]
    rewarded = drafts.put(drafts.fresh("alignprop"), {"reward.terms": ["jpeg-size"], "model": "toy"})
    assert "ddpo" in train_actions.check(rewarded, place)[2]
    assert "terms is empty" in train_actions.check(drafts.fresh("ddpo"), place)[2]
    for draft, said in ((wrong, "steps"), (rewarded, "gradient"), (drafts.fresh(), "no pictures yet")):
        with pytest.raises((UsageError, DataError), match=said):
            train_actions.start(draft, place)
    with pytest.raises(UsageError, match="ZeroGPU"):
        train_actions.start(ready(), guest(tmp_path, "me", writable=True, zero_gpu=True))
    code = drafts.put(drafts.fresh("ddpo"), {"reward.terms": ["os:getcwd"]})
    with pytest.raises(UsageError, match="scorers"):
        train_actions.proposed(code, "taste", None, guest(tmp_path, "me", writable=True, zero_gpu=False))
    assert Queue(place.runs).jobs() == []


def test_goals_and_methods_say_what_they_change(place: Place) -> None:
    now, said = train_actions.proposed(drafts.put(drafts.fresh("dco"), {"beta": "9"}), "single", 1, place)
    assert (now["trainer"], now["goal"]) == ("tlora", "single")
    assert "beta" in said
    moved, about = train_actions.method(now, "lcm")
    assert (moved["trainer"], moved["goal"]) == ("lcm", "")
    assert "LCM" in about
    assert train_actions.plain("a*b_<i>") == "a\\*b\\_\\<i\\>"


def test_the_plan_is_of_the_form(place: Place) -> None:
    planner = Planner()
    try:
        said = train_actions.planned(ready(), place, planner)
        assert said.startswith("**Fits.**")
        assert "0:00" in said
        assert planner.worker is not None
        process = planner.worker.process
        process.kill()
        process.wait()
        assert train_actions.planned(ready(), place, planner) == said, "known answers need no worker"
        planner.patience = 0.0
        assert train_actions.planned(ready(lr=0.5), place, planner) == LATER, "a new worker, but no time to answer"
        assert train_actions.planned(drafts.take(ready(), "steps", "x"), place, planner) == ""
    finally:
        planner.close()
    assert planner.worker is None


def test_what_one_goal_proposed_does_not_stay_for_another(place: Place) -> None:
    style, _ = train_actions.proposed(ready(), "style", 5, place)
    assert "data.prompt" in style["changed"]
    subject, _ = train_actions.proposed(style, "subject", 5, place)
    assert "data.prompt" not in subject["changed"]
    taste, _ = train_actions.proposed(subject, "taste", 5, place)
    few, said = train_actions.proposed(taste, "few-step", 5, place)
    assert "reward.terms" not in few["changed"]
    own, _ = train_actions.proposed(ready(**{"data.prompt": "my own {trigger}"}), "style", 5, place)
    assert train_actions.proposed(own, "subject", 5, place)[0]["changed"]["data.prompt"] == "my own {trigger}"


def test_without_pictures_the_page_says_what_start_would(place: Place) -> None:
    command, _, said = train_actions.check(drafts.fresh(), place)
    assert not command
    assert "no pictures yet" in said.lower()
