"""The form is the config: every setting of every trainer is in it, and what it reads is what the command would do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from studio import registry
from studio.config import flat, make
from studio.pipelines.errors import UsageError
from studio.ui import draft as drafts
from studio.ui import form, form_choices, form_words
from studio.ui.place import Place, home

TRAINERS = registry.names("trainers")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return home(tmp_path / "runs", (tmp_path,))


def test_import_is_light() -> None:
    code = (
        "import sys, studio.ui.form, studio.ui.draft, studio.ui.goals, studio.ui.presets, studio.ui.data_look, "
        "studio.ui.data_uploads, studio.ui.plan_line, studio.ui.form_choices;"
        "print([name for name in ('torch', 'gradio', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_setting_once_and_widgets_give_back_what_they_were_given(trainer: str, place: Place) -> None:
    draft = drafts.fresh(trainer)
    known = drafts.known_to(draft)
    for name in known:
        draft = drafts.edit(draft, name, drafts.shown(draft, name))
    assert draft["changed"] == {}
    config = drafts.config(draft, place)
    assert flat(config) == flat(make(trainer, flags={"runs": place.runs}))
    there = [name.removeprefix("settings.") for name in flat(config) if name not in ("trainer", "runs")]
    assert sorted(known) == sorted(there)
    assert all(one.help and one.label for one in known.values())
    assert len({one.label for one in known.values()}) == len(known), "two settings of one label cannot be told apart"
    basic = [one.basic for one in known.values()]
    assert basic == sorted(basic, reverse=True)
    assert 5 <= sum(basic) <= 20


def test_kinds_and_bounds() -> None:
    known = {one.name: one for one in form.fields("dco")}
    kinds = {"steps": "int", "lr": "float", "data.flip": "bool", "precision": "choice", "optimizer": "text"}
    kinds |= {"data.folder": "path", "previews.prompts": "list", "beta": "text", "snr_gamma": "float"}
    assert {name: known[name].kind for name in kinds} == kinds
    assert (known["steps"].low, known["steps"].above) == (1, False)
    assert (known["lr"].low, known["lr"].above, known["lr"].high) == (0, True, 10)
    assert known["snr_gamma"].optional
    assert known["snr_gamma"].default is None
    assert known["precision"].choices == ("auto", "no", "fp16", "bf16")
    assert "at least 1" in known["steps"].hint
    assert "default 2000" in known["steps"].hint
    assert known["data.resolution"].label.endswith("(pixels)")


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [("steps", 2.5, "whole"), ("steps", "many", "number"), ("steps", None, "empty"), ("precision", "fp8", "one of")],
)
def test_what_is_none_of_the_kind_is_said(name: str, value: object, word: str) -> None:
    with pytest.raises(UsageError, match=word) as said:
        drafts.edit(drafts.fresh(), name, value)
    noted = drafts.take(drafts.fresh(), name, value)
    with pytest.raises(UsageError, match=name):
        drafts.config(noted, home(Path("runs")))
    assert drafts.take(noted, name, drafts.shown(drafts.fresh(), name)) == drafts.fresh()
    assert name in str(said.value)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("lr", 11.0), ("data.background", "blurple"), ("lr", 1e999)])
def test_what_is_out_of_bounds_is_said_by_the_config(name: str, value: object, place: Place) -> None:
    draft = drafts.edit(drafts.fresh(), name, value)
    with pytest.raises(UsageError, match=name.rpartition(".")[2]):
        drafts.config(draft, place)


def test_values_reach_the_config(place: Place) -> None:
    draft = drafts.fresh("dco")
    texts = {
        "model": "toy",
        "steps": 40,
        "beta": "250",
        "previews.prompts": "a fox\n\n a cat ",
        "keep_steps": "10\n20",
        "run": "mine",
    }
    for name, value in texts.items():
        draft = drafts.edit(draft, name, value)
    config = drafts.config(draft, place)
    settings = config.settings
    assert (settings.steps, settings.beta, settings.keep_steps) == (40, 250.0, (10, 20))  # type: ignore[attr-defined]
    assert (settings.previews.prompts, config.run, config.runs) == (("a fox", "a cat"), "mine", place.runs)
    assert json.loads(json.dumps(draft)) == draft, "the browser keeps it as JSON"
    assert flat(drafts.config(drafts.of_config(config), place)) == flat(config)
    assert drafts.edit(draft, "steps", 2000)["changed"].keys() == draft["changed"].keys() - {"steps"}


def test_another_trainer_takes_over_what_means_the_same() -> None:
    draft = drafts.put(drafts.fresh("dco"), {"steps": 40, "beta": "250", "reward.terms": ["hps"], "seed": 3})
    assert "reward.terms" not in draft["changed"]
    now, lost = drafts.switch(draft, "alignprop")
    assert now["trainer"] == "alignprop"
    assert now["changed"] == {"steps": 40, "seed": 3}
    assert lost == ["beta"]
    rewarded = drafts.put(now, {"reward.terms": ["hps"]})
    assert drafts.switch(rewarded, "ddpo")[0]["changed"]["reward.terms"] == ["hps"]


@pytest.mark.parametrize("name", ["data.folder", "model", "start", "choice.dino"])
def test_paths_stay_in_the_visitors_folders(name: str, place: Place) -> None:
    draft = drafts.edit(drafts.fresh(), name, "/etc")
    with pytest.raises(UsageError, match="outside"):
        drafts.config(draft, place)
    assert drafts.config(drafts.edit(drafts.fresh(), "data.folder", "subject:fox"), place)


def test_a_browsers_draft_may_be_anything() -> None:
    for value in (None, 3, {"trainer": "gone", "changed": []}, {"changed": {"steps": {"a": 1}, "nothing": 2}}):
        assert drafts.checked(value) == drafts.fresh()
    kept = {"trainer": "dco", "goal": "style", "changed": {"steps": 7}, "wrong": {}}
    assert drafts.checked(json.loads(json.dumps(kept))) == {**drafts.fresh(), **kept}


def test_search_finds_names_labels_and_help() -> None:
    known = form.fields("dreambooth")
    assert [one.name for one in form.search(known, "adapter rank")][0] == "adapter.rank"
    assert "lr" in [one.name for one in form.search(known, "learning rate")]
    assert [one.name for one in form.search(known, "--adapter.rank")] == ["adapter.rank"]
    assert form.search(known, "zebra crossing") == ()
    assert form.search(known, "") == known


def test_suggestions_exist() -> None:
    known = {one.name: one for one in form.fields("alignprop")}
    assert {"embedded-stated", "jpeg-soft-bits"} <= set(form_choices.suggestions(known["reward.terms"]))
    for name in ("optimizer", "schedule", "sampler"):
        assert known[name].default in form_choices.suggestions(known[name])
    assert form_choices.suggestions(known["data.trigger"]) == ()
    assert ("fox (subject)", "subject:fox") in form_choices.subjects()


@pytest.mark.parametrize("trainer", ["dreambooth", "lcm"])
def test_hints_say_nothing_twice(trainer: str) -> None:
    known = {one.name: one for one in form.fields(trainer)}
    hints = {name: one.hint for name, one in known.items()}
    assert not [hint for hint in hints.values() if "e+" in hint or "default empty" in hint]
    assert hints["lr"] == f"above 0, at most 10 · default {known['lr'].default} · lr"
    assert hints["seed"].endswith("at least 0 · default 0") or hints["seed"].endswith("default 0 · seed")
    assert hints["run"] == "empty: date-subject-trainer · run"
    assert hints["adapter.rank"].endswith("· adapter.rank"), "where the label has other words, the name is said"
    assert "adapter.dropout" not in hints["adapter.dropout"]
    assert "default off" in hints["adapter.dora"]


def test_words_are_no_paths(place: Place) -> None:
    draft = drafts.put(
        drafts.fresh(), {"data.folder": "subject:fox", "adapter.targets": ".*to_q", "data.prompt": "~ {trigger}"}
    )
    assert drafts.config(draft, place).settings.adapter.targets == ".*to_q"
    with pytest.raises(UsageError, match="outside"):
        drafts.config(drafts.put(drafts.fresh(), {"start": "/etc/passwd"}), place)


def test_mistakes_are_said_by_labels(place: Place) -> None:
    wrong = {
        "lr": (20, "Learning rate (lr) = 20: should be at most 10"),
        "steps": (0, "Steps of training (steps) = 0: should be at least 1"),
        "adapter.rank": (0, "Rank (adapter.rank) = 0: should be at least 1"),
        "keep_steps": ("10\nx", "Keep steps (keep_steps) = 'x': should be a whole number"),
    }
    for name, (value, said) in wrong.items():
        with pytest.raises(UsageError) as error:
            drafts.config(drafts.edit(drafts.fresh(), name, value), place)
        assert str(error.value).startswith(said), name
    with pytest.raises(UsageError, match=r"^Steps of training \(steps\) is empty: give a value"):
        drafts.edit(drafts.fresh(), "steps", None)
    other = "there is no trainer 'x': see `studio list trainers`"
    assert form_words.spoken(other, {"lr": "Learning rate (lr)"}) == other
