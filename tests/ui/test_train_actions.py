"""What the Train tab says is what the command does: the command reads back as the run that is started."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from studio import flags
from studio.config import flat
from studio.pipelines.errors import DataError, UsageError
from studio.ui import draft as drafts
from studio.ui import goals, train_actions
from studio.ui.jobs import Queue
from studio.ui.place import NO_SIGN_IN, SIGN_IN, Place, guest, home
from studio.ui.plan_line import AGAIN, FIRST, LATER, NONE, Asked, Planner
from studio.ui.train_look import plain


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
    now = train_actions.proposed(drafts.put(drafts.fresh("dco"), {"beta": "9"}), "single", 1, place)
    assert (now["trainer"], now["goal"]) == ("tlora", "single")
    assert "beta" in now["reason"]
    moved = train_actions.method(now, "lcm")
    assert (moved["trainer"], moved["goal"]) == ("lcm", "")
    assert "LCM" in moved["reason"]
    assert plain("a*b_<i>") == "a\\*b\\_\\<i\\>"


def test_the_plan_is_of_the_form(place: Place) -> None:
    planner = Planner()
    try:
        first, said = train_actions.planned(ready(), place, planner)
        assert first == AGAIN, "old figures do not stand there as those of the new draft"
        assert said.startswith("**Fits.**")
        assert "about 0 s" in said
        shared = list(train_actions.planned(ready(), place, planner, ("fox",)))
        assert shared[0] == AGAIN, "what is free is another thing beside another run"
        assert "(fox)" in shared[1]
        assert planner.worker is not None
        process = planner.worker.process
        process.kill()
        process.wait()
        assert list(train_actions.planned(ready(), place, planner)) == [said], "known answers need no worker"
        planner.patience = 0.0
        late = list(train_actions.planned(ready(lr=0.5), place, planner))
        assert late == [AGAIN, LATER], "a new worker, but no time to answer"
        assert list(train_actions.planned(drafts.take(ready(), "steps", "x"), place, planner)) == [NONE]
        assert list(train_actions.planned(drafts.fresh(), place, planner)) == [FIRST], "nobody asked for anything yet"
        chosen = train_actions.proposed(drafts.fresh(), "few-step", None, place)
        assert not chosen["changed"]
        assert next(train_actions.planned(chosen, place, planner)) == AGAIN
    finally:
        planner.close()
    assert planner.worker is None


def test_what_one_goal_proposed_does_not_stay_for_another(place: Place) -> None:
    style = train_actions.proposed(ready(), "style", 5, place)
    assert "data.prompt" in style["changed"]
    subject = train_actions.proposed(style, "subject", 5, place)
    assert "data.prompt" not in subject["changed"]
    taste = train_actions.proposed(subject, "taste", 5, place)
    few = train_actions.proposed(taste, "few-step", 5, place)
    assert "reward.terms" not in few["changed"]
    own = train_actions.proposed(ready(**{"data.prompt": "my own {trigger}"}), "style", 5, place)
    assert train_actions.proposed(own, "subject", 5, place)["changed"]["data.prompt"] == "my own {trigger}"


def test_what_a_goal_does_without_is_dropped_and_said(place: Place) -> None:
    own = {"data.class_word": "fox", "lr": 0.5}
    subject = train_actions.proposed(ready(**own), "subject", 5, place)
    style = train_actions.proposed(subject, "style", 5, place)
    assert "data.class_word" not in style["changed"]
    assert "Dropped" in style["reason"]
    assert "Class word" in style["reason"]
    assert style["changed"]["data.folder"] == "subject:fox"
    for before in (subject, ready(**own)):
        few = train_actions.proposed(before, "few-step", 5, place)
        assert few["changed"] == {"model": "toy", "lr": 0.5}
        for word in ("the pictures", "Class word", "Name of the run", "Steps of training"):
            assert word in few["reason"]
        assert train_actions.check(few, place)[2] == ""
    typed = drafts.put(style, {"data.class_word": "ink"})
    assert train_actions.reset(typed, ("data.class_word",), place)["changed"]["data.class_word"] == "ink"
    first = train_actions.proposed(drafts.put(drafts.fresh(), {"run": "mine", "steps": 3}), "few-step", None, place)
    assert first["changed"] == {"run": "mine", "steps": 3}, "what was typed before any goal was meant for this one"
    assert "Dropped" not in first["reason"]


def test_without_pictures_the_page_says_what_start_would(place: Place) -> None:
    command, _, said = train_actions.check(drafts.fresh(), place)
    assert not command
    assert "no pictures yet" in said.lower()


def test_a_refused_folder_reaches_neither_command_nor_start(place: Place, tmp_path: Path) -> None:
    before = ready()
    for folder, said in (("/etc", "outside"), (str(tmp_path / "no"), "no folder"), ("subject:fux", "mean 'fox'")):
        now = train_actions.chosen(before, folder, place)
        assert "data.folder" not in now["changed"], "not even the folder before it is used"
        command, toml, wrong = train_actions.check(now, place)
        assert (command, toml) == ("", "")
        assert said in wrong
        with pytest.raises((UsageError, DataError), match=said):
            train_actions.start(now, place)
        assert train_actions.check(train_actions.chosen(now, "subject:fox", place), place)[2] == ""
        assert "No pictures yet" in train_actions.check(train_actions.chosen(now, "", place), place)[2]
        assert "data.folder" not in drafts.checked(now)["changed"], "a reload does not bring it back"
    gone = tmp_path / "gone"
    gone.mkdir()
    later = train_actions.chosen(before, str(gone), place)
    gone.rmdir()
    assert "no folder" in train_actions.check(later, place)[2], "one that was deleted since is said too"


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("my fox!", "my-fox"),
        ("../x", "x"),
        ("_x", "x"),
        ("a/b c", "a-b-c"),
        ("!!", "leave it empty"),
        ("x" * 101, "x" * 60),
    ],
)
def test_a_bad_name_of_a_run_is_said_with_a_good_one(name: str, good: str, place: Place) -> None:
    command, _, wrong = train_actions.check(ready(run=name), place)
    assert command == ""
    assert "letters, digits" in wrong.replace("\\", "")
    assert good in wrong.replace("\\", "")
    assert "--data" not in wrong
    if good.isascii() and " " not in good:
        assert train_actions.check(ready(run=good), place)[2] == ""


def test_a_reload_loses_nothing(place: Place) -> None:
    now = train_actions.proposed(ready(lr=0.5), "style", 5, place)
    now = {**now, "view": {"all": True, "fresh": True}}
    assert drafts.checked(now) == now
    strange = {**now, "goal": "?", "reason": ["x"], "view": {"all": "yes", "more": 1}}
    assert drafts.checked(strange) == {**now, "goal": "", "reason": "", "view": drafts.VIEW}


def test_reset_leaves_what_the_goal_needs(place: Place) -> None:
    taste = train_actions.proposed(ready(), "taste", None, place)
    bare = train_actions.reset(drafts.put(taste, {"lr": 0.5}), ("data.folder",), place)
    assert bare["changed"] == {"data.folder": "subject:fox", "reward.terms": ["embedded-stated"]}
    assert train_actions.check(bare, place)[2] == ""


@pytest.mark.parametrize("goal", [goal.key for goal in goals.GOALS])
def test_every_goal_can_be_started_as_it_is_proposed(goal: str, place: Place) -> None:
    draft = drafts.put(drafts.fresh(), {"data.folder": "subject:fox"})
    command, _, wrong = train_actions.check(train_actions.proposed(draft, goal, 5, place), place)
    assert (command.startswith("studio train "), wrong) == (True, "")


def test_a_page_is_known_by_what_it_asked_for_last() -> None:
    pages = Asked(most=2)
    pages.of("a").draft = ready()
    pages.of("b").beside = ("fox",)
    assert pages.of("a").draft == ready()
    assert pages.of("c").beside is None
    assert len(pages.pages) == 2


def test_who_comes_back_is_told_what_is_at_work(place: Place) -> None:
    assert train_actions.standing(place) == ""
    train_actions.start(ready(), place)
    assert train_actions.at_work(place) == ("mine",)
    assert "**mine**" in train_actions.standing(place)


def test_who_may_not_write_is_told_the_truth(tmp_path: Path) -> None:
    for closed, said, button in ((SIGN_IN, "sign in with", True), (NO_SIGN_IN, "hf_oauth", False)):
        here = guest(tmp_path, "", writable=False, zero_gpu=False, closed=closed)
        with pytest.raises(UsageError, match=said) as refused:
            train_actions.start(ready(), here)
        assert ("button" in str(refused.value)) == button
        assert said in train_actions.standing(here).replace("\\", "")
