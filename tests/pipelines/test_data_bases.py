"""Base captions: what a picture shows, in words that do not name the subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio.pipelines import backbone
from studio.pipelines.data import Dataset, DataStream, Pictures

SIDES = backbone.load("toy")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        picture(seed).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a closeup of a {trigger} {class_word}, on grass")
    return tmp_path


def read(folder: Path, **settings: Any) -> Dataset:
    return Pictures(folder=folder, **{"class_word": "otter", **settings}).read(SIDES)


def bases(dataset: Dataset) -> dict[str, str]:
    return {example.name: dataset.bases[example.id] for example in dataset.examples}


def test_without_one_the_class_word_stands_where_the_trigger_stood(folder: Path) -> None:
    assert bases(read(folder)) == {
        "a.png": "a closeup of an otter, on grass",
        "b.png": "a photo of otter",
        "c.png": "a photo of otter",
    }
    assert set(bases(read(folder, class_word="")).values()) == {"a closeup of a, on grass", ""}


@pytest.mark.parametrize("kind", ["metadata.jsonl", "metadata.csv"])
def test_a_sidecar_or_a_metadata_row_brings_its_own(folder: Path, kind: str) -> None:
    (folder / "a.base.txt").write_text("an {class_word} seen from near\n")
    (folder / "b.base.txt").write_text("not this")
    rows = {
        "metadata.jsonl": '{"file_name": "b.png", "text": "sks otter asleep", "base": "one asleep"}\n',
        "metadata.csv": "file_name,text,base\nb.png,sks otter asleep,one asleep\n",
    }
    (folder / kind).write_text(rows[kind])
    dataset = read(folder)
    assert bases(dataset) == {"a.png": "an otter seen from near", "b.png": "one asleep", "c.png": "a photo of otter"}
    assert dataset.known[folder / "a.base.txt"].kind == "base caption"
    assert {r.path.name: r.reason for r in dataset.rejected} == {
        "b.base.txt": "the metadata row's base caption was used"
    }
    assert not dataset.warnings


def test_one_that_names_the_subject_or_says_nothing_is_left_out_aloud(folder: Path) -> None:
    (folder / "a.base.txt").write_text("a sks otter")
    (folder / "b.base.txt").write_text(" ")
    dataset = read(folder)
    assert bases(dataset)["a.png"] == "a closeup of an otter, on grass"
    assert [note for note in dataset.warnings if "a.png" in note and "has the trigger" in note]
    assert [note for note in dataset.warnings if "b.base.txt is empty: the caption's twin" in note]


def test_a_picture_may_have_that_name(folder: Path) -> None:
    picture(9).save(folder / "a.base.png")
    (folder / "a.base.txt").write_text("navy sks")
    dataset = read(folder)
    captions = {example.name: example.caption for example in dataset.examples}
    assert captions["a.base.png"] == "navy sks"
    assert bases(dataset)["a.png"] == "a closeup of an otter, on grass"


def test_a_single_picture_has_its_own_too(folder: Path) -> None:
    (folder / "a.base.txt").write_text("one otter")
    assert bases(read(folder / "a.png")) == {"a.png": "one otter"}


def test_they_change_nothing_but_themselves(folder: Path) -> None:
    before = read(folder)
    (folder / "a.base.txt").write_text("one otter")
    after = read(folder)
    assert after.fingerprint() != before.fingerprint()
    assert after.captions == before.captions
    streams = [DataStream(SIDES, dataset, batch=2, seed=0) for dataset in (before, after)]
    assert [stream.at(0).prompts for stream in streams][0] == streams[1].at(0).prompts
    assert streams[1].bases == after.bases
