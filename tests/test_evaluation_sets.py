"""Sets of prompts: those that come with the studio, a person's own, and what a source is asked."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from studio.evaluation import sets
from studio.evaluation.personal_wishes import wishes
from studio.evaluation.sets import Kind, PromptSet, wanted
from studio.pipelines.errors import UsageError

EVERY = [(model, kind) for model in ("embedded", "other") for kind in get_args(Kind)]
ASKS = {"recontext", "attribute", "composition", "style", "class"}


def own(folder: Path, text: str) -> Path:
    """A file of a person's own sets."""
    file = folder / "own.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(("model", "kind"), EVERY, ids="-".join)
def test_every_shipped_set_can_be_asked(model: str, kind: Kind):
    found = sets.shipped(model, kind)
    word = "" if kind == "style" else "fox"
    adapter, base = (wanted(found, [0, 1], trigger, word) for trigger in ("sks", ""))
    assert {"recontext", "composition", "class"} <= {group.name for group in found}
    assert kind == "style" or {group.name for group in found} == ASKS
    for ours, theirs in zip(adapter, base, strict=True):
        called = ours.set != "class"
        assert (ours.set, ours.template, ours.seed) == (theirs.set, theirs.template, theirs.seed)
        assert ("sks" in ours.prompt) == called
        assert theirs.prompt == theirs.plain == ours.plain
        assert "sks" not in ours.plain
        assert "{" not in ours.prompt + ours.plain
        assert ours.prompt.replace("sks ", "").replace("style ", "").split()[1:] == ours.plain.split()[1:]
    prompts = [one.prompt for one in adapter if one.set != "class"]
    assert len(set(prompts)) == len(prompts) / 2  # each prompt once per seed


@pytest.mark.parametrize("kind", ["live", "style"])
def test_what_the_embedded_model_is_asked_can_be_seen(kind: Kind):
    word = "" if kind == "style" else "fox"
    for one in wanted(sets.shipped("embedded", kind), [0], "", word):
        assert "colour" in wishes(one.plain, word), one.plain


@pytest.mark.parametrize(
    ("word", "kind"),
    [("dog", "live"), ("old man", "live"), ("Dogs", "live"), ("backpack", "object"), ("stuffed bear", "object"),
     ("dog toy", "object"), ("", "style"), (" ", "style")],
)  # fmt: skip
def test_the_class_word_says_what_is_asked(word: str, kind: Kind):
    assert sets.kind_of(word) == kind


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[mine]\nprompt = ["a {subject}"]', "did you mean 'prompts'"),
        ('[mine]\nprompts = [{text = "a {subject}", plian = "x"}]', "did you mean 'plain'"),
        ("[mine]\nprompts = []", "prompts = []: there is no prompt in it"),
        (
            '[mine]\nprompts = ["a {subject}",',
            "not TOML (it ends inside a list, a table or a string that is not closed, at",
        ),
        ('[mine]\nprompts = ["a photo of a cat"]', "should say {subject}"),
        ('[mine]\nprompts = ["a {subject}"]\ntrigger = 3.5', "trigger"),
        ('mine = ["a {subject}"]', "should be a table"),
        ('["a/b"]\nprompts = ["a {subject}"]', "letters, digits"),
        ("", "no set of prompts"),
        ("[mine", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str):
    with pytest.raises(UsageError, match="own.toml") as error:
        sets.read(own(tmp_path, text))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_own_sets_join_the_shipped_ones_and_can_take_their_place(tmp_path: Path):
    file = own(tmp_path, '[moon]\nprompts = ["a {subject} on the moon"]\n[style]\nprompts = ["a {subject} in oil"]')
    found = sets.merged(sets.shipped("other", "live"), sets.read(file))
    assert [group.name for group in found][-1] == "moon"
    assert [len(group.prompts) for group in found if group.name == "style"] == [1]
    assert [group.name for group in sets.choose(found, ["moon", "class"])] == ["moon", "class"]
    with pytest.raises(UsageError, match="did you mean 'moon'"):
        sets.choose(found, ["mooon"])


def test_the_fingerprint_is_of_prompts_and_seeds():
    live, other = sets.shipped("other", "live"), sets.shipped("other", "object")
    assert sets.fingerprint(live, [1, 2]) == sets.fingerprint(sets.shipped("other", "live"), (1, 2))
    assert len({sets.fingerprint(live, [1]), sets.fingerprint(live, [2]), sets.fingerprint(other, [1])}) == 3


def test_articles_follow_the_word():
    group = [PromptSet(name="one", prompts=("a {subject} and a red {subject}",))]
    assert wanted(group, [0], "", "octopus")[0].prompt == "an octopus and a red octopus"
    assert wanted(group, [0], "sks", "octopus")[0].prompt == "a sks octopus and a red sks octopus"
    assert wanted(group, [0], "", "unicorn")[0].prompt == "a unicorn and a red unicorn"


def test_a_prompt_without_a_class_word_is_refused():
    with pytest.raises(UsageError, match="--class-word"):
        wanted(sets.shipped("other", "live"), [0], "sks", "")
