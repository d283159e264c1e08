"""The embedded judges as scorers, and what captions of their world state."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from studio.pipelines.encoders import judges
from studio.pipelines.encoders.base import forget
from studio.pipelines.errors import ModelError
from studio.pipelines.scorers import embedded
from studio.pipelines.scorers._stated import KINDS, SIZES, STYLES, Reader, spoken
from studio.world import concepts, scenes, words
from studio.world.judges import answers
from studio.world.sprites import Sprite
from tests.scorer_cases import CPU, built, pictures


@pytest.fixture(scope="module")
def draw() -> scenes.Draw:
    """Scenes of every concept in every style; only their captions are wanted."""
    names = concepts.concepts()
    return scenes.Draw([Sprite(name, style, "", "", "") for style in concepts.STYLES for name in names])


def test_every_caption_states_what_the_world_says_it_states(draw: scenes.Draw):
    read = Reader(answers(draw))
    for seed in range(3000):
        scene = draw(seed)
        caption = scene.caption()
        said = words.said(scene, caption)
        said.pop("second size")
        assert read(caption) == {name: value for name, value in said.items() if value not in ("", *KINDS)}, caption


def test_the_worlds_words_are_the_ones_that_are_read():
    phrases = {
        style: tuple(phrase.removeprefix("a").removeprefix("n") for phrase in row[1])
        for style, row in concepts.STYLES.items()
    }
    assert phrases == {style: tuple(f" {phrase}" for phrase in row) for style, row in STYLES.items()}
    assert set(concepts.KINDS) == set(KINDS)


@pytest.mark.parametrize(
    ("prompt", "stated"),
    [
        ("a fox on a blue background", {"object": "fox", "colour": "blue"}),
        ("an orange on an orange background", {"object": "orange", "colour": "orange"}),
        ("a blue fox on a black background", {"object": "fox", "tint": "blue", "colour": "black"}),
        ("a star to the right of a hot dog", {"object": "hot dog", "second": "star"}),
        ("a small hedgehog and an apple on a red background", {"colour": "red"}),
        ("a zebra", {}),
        ("A LARGE animal in the center", {"size": "large", "position": "center"}),
    ],
)
def test_a_prompt_states(draw: scenes.Draw, prompt: str, stated: dict[str, str]):
    assert Reader(answers(draw))(prompt) == stated


def test_the_share_of_stated_attributes_is_the_classifiers(tmp_path: Path):
    scorer = next(one for one in built("embedded", tmp_path) if one.about.name == "embedded-attributes")
    x = pictures(3, 64)
    seen = embedded.load().read(x * 2 - 1)
    other = next(colour for colour in concepts.BACKGROUNDS if colour != seen[1]["colour"])
    prompts = [
        f"a {seen[0]['object']} on a {seen[0]['colour']} background",
        f"a {seen[1]['object']} on a {other} background",
        "nothing that is known",
    ]
    found = scorer(x, prompts)
    assert found[:2].tolist() == [1.0, 0.5]
    assert found[2].isnan()


def test_scorers_say_what_the_judges_say(tmp_path: Path):
    forget()
    by = {scorer.about.name: scorer for scorer in built("embedded", tmp_path)}
    one, x, near = embedded.load(), pictures(5, 96), pictures(3, 80, seed=4)
    prompts = ["a fox on a blue background"] * 5
    close = {"atol": 1e-5, "rtol": 0.0}
    text = (one.image_features(x * 2 - 1) * one.text_features(prompts)).sum(-1)
    torch.testing.assert_close(by["embedded-prompt"](x, prompts), text, **close)
    for name, view in (("embedded-subject", one.image_features), ("embedded-traits", one.attribute_features)):
        wanted = (view(x * 2 - 1) @ view(near * 2 - 1).T).mean(-1)
        torch.testing.assert_close(by[name](x, references=list(near)), wanted, **close)
    again = embedded.SubjectMatch(one, "attribute")(x, [], near)
    torch.testing.assert_close(again, wanted, **close)


def test_the_judges_are_named_by_their_weights():
    about = embedded.build(embedded.Config(), CPU, torch.float32)[0].about
    assert about.encoder == f"embedded judges {judges.fingerprint(judges.assets_folder() / 'judges')}"


def test_judges_that_are_not_there_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="no judges in .*empty: make them with"):
        embedded.build(embedded.Config(encoder=str(tmp_path / "empty")), CPU, torch.float32)


@pytest.mark.parametrize("style", STYLES)
def test_what_a_prompt_states_is_told_in_its_own_words(draw: scenes.Draw, style: str):
    read = Reader(answers(draw))
    for phrase, size in itertools.product(STYLES[style], SIZES):
        prompt = f"a {phrase} of a {size} fox"
        stated = read(prompt)
        assert (stated["style"], stated["size"]) == (style, SIZES[size])
        assert {spoken(prompt, name, answer) for name, answer in stated.items()} == {phrase, size, "fox"}
