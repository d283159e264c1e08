"""Class pictures: made by the base, kept, made again only where they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from studio.pipelines import backbone, prior
from studio.pipelines.adapters import lora
from studio.pipelines.protocols import Backbone


def trained() -> Backbone:
    model = backbone.load("toy")
    adapter = lora.Config(rank=2).build(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(1.0)
    return model


def fill(model: Backbone, folder: Path, count: int = 5, seed: int = 3) -> dict[str, bytes]:
    progress = list(prior.pictures(model, "a cat", count, folder, seed, steps=2, batch=2))
    assert progress[-1] == (count, count)
    place = prior.location(model, "a cat", count, folder, seed, steps=2)
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


def test_they_are_the_base_models_whatever_the_adapter(tmp_path: Path) -> None:
    with_adapter = trained()
    made = fill(with_adapter, tmp_path / "a")
    assert with_adapter.adapter is not None
    assert made == fill(backbone.load("toy"), tmp_path / "b")
    assert len(made) == 5


def test_they_are_reused_and_only_missing_or_broken_ones_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backbone.load("toy")
    made = fill(model, tmp_path)
    place = prior.location(model, "a cat", 5, tmp_path, 3, steps=2)
    (place / prior.name(4)).unlink()
    (place / prior.name(6)).write_bytes(b"not a picture")
    asked: list[int] = []
    original = prior._base_pictures

    def watched(*args: object) -> list[torch.Tensor]:
        asked.extend(args[2])  # type: ignore[arg-type]
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(prior, "_base_pictures", watched)
    assert fill(model, tmp_path) == made
    assert asked == [4, 6]
    assert fill(model, tmp_path) == made
    assert asked == [4, 6]


def test_each_carries_its_prompt_and_seed(tmp_path: Path) -> None:
    model = backbone.load("toy")
    fill(model, tmp_path)
    with Image.open(prior.location(model, "a cat", 5, tmp_path, 3, steps=2) / prior.name(3)) as picture:
        assert picture.text == {"prompt": "a cat", "seed": "3"}  # type: ignore[attr-defined]


def test_another_prompt_seed_or_count_has_another_place(tmp_path: Path) -> None:
    model = backbone.load("toy")
    places = {
        prior.location(model, *words, steps=steps)
        for words in (("a cat", 5, tmp_path, 3), ("a dog", 5, tmp_path, 3), ("a cat", 6, tmp_path, 3))
        for steps in (2, 3)
    }
    assert len(places) == 6
