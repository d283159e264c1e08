"""A goal proposes a method that exists, with settings it has, and a reason; rewards decide by their gradient."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio import registry
from studio.pipelines.errors import UsageError
from studio.ui import draft as drafts
from studio.ui import goals
from studio.ui.place import home

KEYS = [goal.key for goal in goals.GOALS]


@pytest.mark.parametrize("key", KEYS)
def test_proposals_can_run(key: str, tmp_path: Path) -> None:
    made = goals.propose(key)
    assert made.reason.endswith(".") and made.reason[0].isupper() or made.reason.startswith("embedded")
    draft = drafts.put(drafts.fresh(made.trainer), made.settings)
    assert draft["changed"].keys() == made.settings.keys()
    assert drafts.config(draft, home(tmp_path)).trainer == made.trainer
    others = [name for name, _ in made.others]
    assert set(others) <= set(registry.names("trainers")) - {made.trainer}
    assert all(why for _, why in made.others)


def test_one_picture_is_no_set() -> None:
    assert goals.propose("subject", 1).trainer == goals.propose("single", 1).trainer == "tlora"
    assert goals.propose("subject", 5).trainer == "dreambooth"
    assert "5 pictures" in goals.propose("single", 5).reason


def test_a_reward_without_gradient_is_learned_by_trying() -> None:
    assert goals.propose("taste", terms=["jpeg-soft-bits"]).trainer == "alignprop"
    blind = goals.propose("taste", terms=["0.5*jpeg-soft-bits", "-1*jpeg-size"])
    assert blind.trainer == "ddpo"
    assert "jpeg-size" in blind.reason
    assert "soft" not in blind.reason
    assert goals.propose("taste").settings == {"reward.terms": ["embedded-stated"]}
    assert goals.propose("taste", terms=["jpeg-size"]).settings == {}


@pytest.mark.parametrize("term", ["jpeg-sise", "3*", "jpeg-size(colour=blue)"])
def test_what_is_no_reward_is_said(term: str) -> None:
    with pytest.raises(UsageError):
        goals.propose("taste", terms=[term])


def test_unknown_goal() -> None:
    with pytest.raises(UsageError, match="did you mean 'style'"):
        goals.propose("styl")
