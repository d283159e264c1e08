"""The embedded world: what is held out stays out, scenes are what their captions say, shipped files are whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio import subjects
from studio.pipelines.assets import assets_folder
from studio.pipelines.data import Pictures
from studio.pipelines.scorers import embedded
from studio.world import autoencoder, concepts, quality, scenes, words
from studio.world.judges import truth
from studio.world.sprites import Sprite

SUBJECTS = sorted(path.parent for path in (assets_folder() / "subjects").glob("*/subject.json"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[scenes.Draw, Path]:
    """A scene generator over four drawings in two styles."""
    folder = tmp_path_factory.mktemp("sprites")
    sprites = []
    for style in ("noto", "twemoji"):
        for word, colour in {"fox": "red", "apple": "lime", "glasses": "navy", "octopus": "purple"}.items():
            picture = Image.new("RGBA", (96, 96))
            picture.paste(colour, (16, 16, 80, 80))
            picture.save(folder / f"{style}-{word}.png")
            sprites.append(Sprite(word, style, f"{style}-{word}.png", "", ""))
    return scenes.Draw(sprites), folder


def test_the_base_has_not_seen_what_is_held_out() -> None:
    learned = {line.split()[0] for line in (assets_folder() / "base" / "sprites.txt").read_text().splitlines()}
    assert len(learned) > 400
    for place in SUBJECTS:
        held_out = set(json.loads((place / "subject.json").read_text())["sha256"])
        assert held_out
        assert not held_out & learned, place.name
    assert not set(concepts.HELD_OUT_STYLES) & set(concepts.STYLES)
    packages = {package for package, _ in concepts.STYLES.values()}
    assert not packages & {package for package, _ in concepts.HELD_OUT_STYLES.values()}


def test_unknown_concepts_are_not_in_the_base_in_any_style() -> None:
    unknown = {code for code, kind in concepts.SUBJECTS.values() if kind in concepts.KINDS}
    assert len(unknown) >= 4
    assert not unknown & set(concepts.concepts().values())


def test_there_are_enough_subjects_and_styles() -> None:
    kinds = [json.loads((place / "subject.json").read_text())["kind"] for place in SUBJECTS]
    assert kinds.count("subject") >= 12
    assert kinds.count("style") >= 4


@pytest.mark.parametrize("place", SUBJECTS, ids=lambda place: place.name)
def test_a_subject_is_a_data_set_with_masks_and_references(place: Path) -> None:
    said = json.loads((place / "subject.json").read_text())
    data = Pictures(folder=place / "train", class_word=said["class_word"], masks=True).read(Sides())
    assert not data.rejected
    assert not {"{trigger}", "{class_word}"} & {word for e in data.examples for word in e.caption.split()}
    assert all(example.mask is not None for example in data.examples)
    assert 1 <= len(data) <= 12
    learn = {path.read_bytes() for path in (place / "train").glob("*.png")}
    judge = {path.read_bytes() for path in (place / "reference").glob("*.png")}
    assert len(judge) >= 3
    assert not learn & judge


class Sides:
    """The embedded model's picture size."""

    pixels, multiple = 64, 16


def test_a_seed_is_a_scene(drawn: tuple[scenes.Draw, Path]) -> None:
    draw, folder = drawn
    for seed in range(20):
        assert draw(seed) == draw(seed)
        assert np.array_equal(draw(seed).render(folder), draw(seed).render(folder))
    assert len({draw(seed).caption() for seed in range(200)}) > 150


def test_a_caption_never_says_what_is_not_there(drawn: tuple[scenes.Draw, Path]) -> None:
    draw, _ = drawn
    for seed in range(400):
        scene = draw(seed)
        said = set(scene.caption().replace(",", "").split())
        tints = {placed.tint for placed in scene.objects}
        assert said & set(concepts.BACKGROUNDS) <= {scene.background, *tints}
        words = {placed.sprite.concept for placed in scene.objects}
        assert said & {"fox", "apple", "glasses", "octopus"} <= words
        sizes = {placed.size for placed in scene.objects}
        assert not said & {"small", "tiny", "little"} or "small" in sizes
        assert not said & {"large", "big"} or "large" in sizes
        if len(scene.objects) == 1 and "left" in said:
            assert scene.objects[0].side == "left"


def test_what_a_caption_states_is_true_and_what_it_leaves_out_is_empty(drawn: tuple[scenes.Draw, Path]) -> None:
    draw, _ = drawn
    answers = words.vocabulary(draw)
    for seed in range(400):
        scene = draw(seed)
        caption = scene.caption()
        said = words.said(scene, caption)
        assert all(value in answers[name] for name, value in said.items())
        assert said["style"] in ("", scene.objects[0].sprite.style)
        assert bool(said["position"]) == (len(scene.objects) == 1 and scene.objects[0].side in caption)
        nouns = [said["object"], said["second"]][: len(scene.objects)]
        assert all(
            noun in (placed.sprite.concept, concepts.kind_of(placed.sprite.concept)) and noun in caption
            for noun, placed in zip(nouns, scene.objects, strict=True)
        )
        sizes = [said["size"], said["second size"]][: len(scene.objects)]
        assert all(size in ("", placed.size) for size, placed in zip(sizes, scene.objects, strict=True))
        assert bool(any(sizes)) == bool(set(words.ADJECTIVES) & set(caption.split()))


def test_a_crop_is_a_window_of_its_scene_with_the_drawing_in_it(drawn: tuple[scenes.Draw, Path]) -> None:
    draw, folder = drawn
    whole, cut = autoencoder.batch(draw, folder, 0, 40, 64), autoencoder.crops(draw, folder, 0, 40, 64)
    assert cut.shape == (40, 3, 32, 32)
    for picture, window in zip(whole, cut, strict=True):
        places = picture.unfold(1, 32, 4).unfold(2, 32, 4).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert (places == window).flatten(1).all(1).any()
        assert window.flatten(1).std(1).max() > 0


def test_the_background_is_the_named_colour_and_the_object_is_where_it_is_said(drawn: tuple[scenes.Draw, Path]) -> None:
    draw, folder = drawn
    for seed in range(50):
        scene = draw(seed, pair=False)
        picture = scene.render(folder).astype(int)
        colour = np.array(concepts.BACKGROUNDS[scene.background])
        assert np.abs(picture[0, 0] - colour).max() <= 7
        there = np.abs(picture - picture[0, 0]).sum(-1) > 40
        if there.any():
            centre = np.nonzero(there.any(0))[0].mean() / 64
            assert {"left": centre < 0.45, "right": centre > 0.55, "center": 0.4 < centre < 0.6}[scene.objects[0].side]


def test_articles() -> None:
    assert [f"{scenes.article(w)} {w}" for w in ("fox", "apple", "unicorn")] == ["a fox", "an apple", "a unicorn"]


def test_agreement_counts_only_what_the_caption_says(drawn: tuple[scenes.Draw, Path]) -> None:
    draw, _ = drawn
    found = [(draw(seed), draw(seed).caption()) for seed in range(100)]
    right = [truth(scene) for scene, _ in found]
    assert set(quality.agreement(found, right).values()) == {1.0}
    wrong = [{**row, "colour": "none", "style": "none"} for row in right]
    marks = quality.agreement(found, wrong)
    assert marks["colour"] == marks["style"] == 0.0
    assert marks["object (single)"] == 1.0


def test_the_judges_know_held_out_colours_and_prefer_the_right_caption() -> None:
    judges = embedded.load()
    fox = subjects.references(subjects.folder("fox"), concepts.BACKGROUNDS["blue"])
    assert [row["colour"] for row in judges.read(fox * 2 - 1)] == ["blue"] * len(fox)
    match = embedded.PromptMatch(judges)
    right = match(fox, ["a fox on a blue background"] * len(fox))
    wrong = match(fox, ["a banana on a red background"] * len(fox))
    assert torch.all(right > wrong)


def test_references_of_a_subject_are_nearer_to_it_than_to_another() -> None:
    near = embedded.SubjectMatch(embedded.load())
    blue = concepts.BACKGROUNDS["blue"]
    fox, rocket = (subjects.references(subjects.folder(name), blue) for name in ("fox", "rocket"))
    assert near(fox, [], fox).mean() > near(rocket, [], fox).mean() + 0.1
