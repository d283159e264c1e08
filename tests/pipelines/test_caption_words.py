"""Laws of a subject's words in captions: where the trigger goes, and the twin without it."""

from __future__ import annotations

import pytest

from studio.pipelines.captioners.kindred import KINDRED
from studio.pipelines.captioners.words import place, says, tidy, twin

CAPTIONS = (
    "a dog on a beach",
    "A brown dog in an old hat",
    "an owl and a dog",
    "a woman holding a dog, in the snow",
    "dog",
)


@pytest.mark.parametrize("caption", CAPTIONS)
@pytest.mark.parametrize("trigger", ["sks", "ohwx", "{trigger}", "zwx 7"])
def test_the_twin_of_a_placed_caption_is_the_caption(caption: str, trigger: str):
    placed = place(caption, trigger, "dog")
    assert f"{trigger} dog" in placed
    assert twin(placed, trigger, "dog") == caption
    assert place(placed, trigger, "dog") == placed
    assert twin(caption, trigger, "dog") == caption
    assert place(caption, "", "dog") == twin(caption, "", "dog") == caption


@pytest.mark.parametrize(
    ("caption", "word", "placed"),
    [
        ("a puppy on a beach", "dog", "a sks dog on a beach"),
        ("a small animal", "dog", "a small sks dog"),
        ("a dog and a puppy", "dog", "a sks dog and a puppy"),
        ("a puppy and a dog", "dog", "a puppy and a sks dog"),
        ("an orange", "dog", "a photo of sks dog, an orange"),
        ("two dogs", "dog", "a photo of sks dog, two dogs"),
        ("hotdog stand", "dog", "a photo of sks dog, hotdog stand"),
        ("a teddy bear", "stuffed animal", "a sks stuffed animal"),
        ("", "dog", "a photo of sks dog"),
        ("", "", "a photo of sks"),
        ("a red house", "", "a photo of sks, a red house"),
    ],
)
def test_the_trigger_goes_before_the_class_or_what_stands_for_it(caption: str, word: str, placed: str):
    assert place(caption, "sks", word) == placed
    assert not says(twin(placed, "sks", word), "sks")
    assert not word or says(twin(placed, "sks", word), word)


def test_what_a_captioner_calls_things_is_replaced_last():
    assert place("a mouse on a red background", "sks", "animal", ["mouse"]) == "a sks animal on a red background"
    assert place("a mouse and a dog", "sks", "animal", ["mouse"]) == "a mouse and a sks animal"
    assert place("a mouse", "sks", "", ["mouse"]) == "a photo of sks, a mouse"
    assert not any(word in kindred.split("|") for word, kindred in KINDRED.items())


@pytest.mark.parametrize(
    ("caption", "plain"),
    [
        ("a {trigger} style cat on a red background", "a cat on a red background"),
        ("a {trigger} style owl", "an owl"),
        ("a cat, in the {trigger} style, on snow", "a cat, on snow"),
        ("a cat in {trigger} style", "a cat"),
        ("a photo of {trigger}, a cat", "a cat"),
        ("a photo of {trigger}", ""),
    ],
)
def test_without_a_class_word_the_trigger_and_its_style_go(caption: str, plain: str):
    assert twin(caption, "{trigger}", "") == plain


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("The image shows a dog.", "a dog"),
        ("In this picture we can see a man.\nHe is old.", "a man. He is old"),
        ("there is a dog that sits", "a dog that sits"),
        ("there is snow", "there is snow"),
        (" a  dog ", "a dog"),
    ],
)
def test_sentences_become_captions(said: str, kept: str):
    assert tidy(said) == kept
