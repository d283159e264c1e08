"""Runs asked for over HTTP; test_journey_wrong.py has one that trains, is stopped, resumed, finished and fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from studio.config import to_toml
from studio.pipelines.errors import StudioError, UsageError
from studio.store import Run, Store
from studio.ui.jobs import Queue
from studio.ui.jobs_api import fetch_adapter, resume_run, run_status, start_run, stop_run
from studio.ui.place import Place, home
from tests import runs

STEPS = 300
TABLE: dict[str, Any] = {"steps": STEPS, "batch": 1, "accumulate": 1, "schedule": "constant", "save_every": 0}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return home(tmp_path / "runs", (runs.pictures(tmp_path / "pictures"),))


def settings(place: Place, **more: Any) -> dict[str, Any]:
    """A request over HTTP."""
    table = {**TABLE, "data": {"folder": str(place.roots[0])}, "previews": {"every": 0, "steps": 2}, **more}
    return {"trainer": "dreambooth", "model": "toy", "run": "one", "dreambooth": table}


def test_a_run_that_waits_is_one_run_and_has_no_adapter_yet(place: Place):
    assert start_run(settings(place), place) == start_run(settings(place), place) == "one"
    assert run_status("one", place)["state"] == "waiting"
    with pytest.raises(UsageError, match="waiting, step 0 of 300; ask again when it is done"):
        fetch_adapter("one", place)
    with pytest.raises(UsageError, match="stop it first"):
        start_run(settings(place, lr=1e-3), place)
    assert stop_run("one", place) == "cancelled"
    assert resume_run("one", place) == "waiting"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runs": "/elsewhere"}, "the server's to say"),
        ({"run": "../one"}, "a name has letters"),
        ({"trainer": "dremboth"}, "did you mean 'dreambooth'"),
        ({"dreambooth": {"lr": -1}}, "lr = -1"),
        ({"dreambooth": {"stepz": 1}}, "did you mean 'steps'"),
        ({"dreambooth": {"data": {"folder": "/nowhere"}}}, "outside of"),
        ({"dreambooth": {"data": {"folder": "../pictures"}}}, "climbs out"),
        ({"nonsense": 1}, "no setting 'nonsense'"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_leaves_nothing(change: dict[str, Any], said: str, place: Place):
    with pytest.raises(StudioError, match=said) as problem:
        start_run({**settings(place), **change}, place)
    assert "\n" not in str(problem.value)
    assert not Queue(place.runs).jobs()
    assert not Store(place.runs).list()


def test_toml_and_mapping_ask_for_the_same_run(place: Place):
    start_run(settings(place), place)
    text = to_toml(Run(place.runs / "one").config())
    assert start_run(text, place) == "one"
    assert len(Queue(place.runs).jobs()) == 1
    assert start_run(text, place, fresh=True) == "one-2"
    with pytest.raises(UsageError, match="the config: not TOML"):
        start_run("a = ", place)


def test_a_stranger_on_a_space_starts_nothing_and_names_no_code(place: Place, tmp_path: Path):
    stranger = Place(tmp_path / "runs", (tmp_path,), tmp_path, space=True, writable=False)
    for ask in (lambda: start_run(settings(place), stranger), lambda: stop_run("one", stranger)):
        with pytest.raises(UsageError, match="sign in"):
            ask()
    user = Place(tmp_path / "runs", (tmp_path,), tmp_path, owner="me", space=True)
    for code in (
        {"reward": {"terms": ["os:getcwd"]}},
        {"reward": {"terms": ["colourfulness"]}, "guard": {"terms": ["os:getcwd"]}},
        {"reward": {"terms": ["colourfulness"]}, "guard": {"terms": ["http://127.0.0.1:1/judge"]}},
    ):
        with pytest.raises(UsageError, match="the studio's own scorers"):
            start_run({"trainer": "alignprop", "model": "toy", "alignprop": code}, user)


def test_a_page_at_home_runs_code_only_where_it_was_opened_with_it(place: Place, monkeypatch: pytest.MonkeyPatch):
    code = {"reward": {"terms": ["tests.reward_functions:brightness"]}}
    asked = {"trainer": "ddpo", "model": "toy", "run": "coded", "ddpo": code}
    monkeypatch.setenv("STUDIO_ROOTS", str(place.runs))
    monkeypatch.setenv("STUDIO_CODE", "0")
    with pytest.raises(UsageError, match="studio ui --allow-code"):
        start_run(asked, place)
    assert not Queue(place.runs).jobs()
    monkeypatch.setenv("STUDIO_CODE", "1")
    assert start_run(asked, place) == "coded"


@pytest.mark.parametrize("wrong", [None, 5, [1, 2], True])
def test_what_is_no_object_and_no_name_is_said_in_a_line(wrong: Any, place: Place):
    with pytest.raises(UsageError, match="should be a JSON object"):
        start_run(wrong, place)
    for ask in (run_status, stop_run, resume_run, fetch_adapter):
        with pytest.raises(UsageError, match="is not a run's name"):
            ask(wrong, place)


@pytest.mark.parametrize("name", ["", "..", "../one", "/tmp", "none"])
def test_only_runs_of_the_place_are_seen(name: str, place: Place):
    for ask in (run_status, stop_run, resume_run, fetch_adapter):
        with pytest.raises(UsageError):
            ask(name, place)
