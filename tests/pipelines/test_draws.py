"""Several processes hold together exactly what one process with a larger batch would hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from studio.pipelines import backbone, draws
from studio.pipelines.data import DataStream, Pictures
from studio.pipelines.protocols import Backbone, Batch
from studio.trainers import dreambooth
from tests.models import backbone as tiny


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven noise pictures of two shapes."""
    for i in range(7):
        noise = torch.randint(256, (16, 16 if i % 2 else 24, 3), generator=torch.Generator().manual_seed(i))
        Image.fromarray(noise.byte().numpy()).save(tmp_path / f"{i}.png")
    return tmp_path


def streams(model: Backbone, photos: Path, ranks: int, batch: int, prior: bool) -> list[DataStream]:
    pictures = Pictures(folder=photos, crop="random", flip=True, caption_dropout=0.3)
    data = pictures.read(model)
    classes = pictures.model_copy(update={"prompt": "a cat"}).read(model) if prior else None
    shares = [draws.Share(rank, ranks) for rank in range(ranks)]
    return [DataStream(model, data, batch=batch, seed=3, prior=classes, share=share) for share in shares]


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_parts_make_the_whole(photos: Path, ranks: int, prior: bool) -> None:
    model = backbone.load("toy")
    parts, (whole,) = streams(model, photos, ranks, 2, prior), streams(model, photos, 1, 2 * ranks, prior)
    for position in range(6):
        one, pieces = whole.at(position), [part.at(position) for part in parts]
        for half in (False, True)[: 1 + prior]:
            assert [i for p in pieces for i in of(p, half, p.ids)] == of(one, half, one.ids)
            assert [i for p in pieces for i in of(p, half, p.prompts)] == of(one, half, one.prompts)
            assert torch.equal(torch.cat([p.latents[p.prior == half] for p in pieces]), one.latents[one.prior == half])


def of(batch: Batch, half: bool, rows: list[str]) -> list[str]:
    return [row for row, prior in zip(rows, batch.prior.tolist(), strict=True) if prior == half]


@pytest.mark.parametrize("name", ["toy", "tiny-sd-v", "tiny-sd3"])
def test_noise_and_times_of_the_parts_are_those_of_the_whole(name: str, photos: Path, tmp_path: Path) -> None:
    model = tiny(name, tmp_path / "models")
    parts, (whole,) = streams(model, photos, 2, 2, True), streams(model, photos, 1, 4, True)
    one, pieces = whole.at(1), [part.at(1) for part in parts]
    expected = dreambooth.noised(model, one, 0.1)
    found = [dreambooth.noised(model, piece, 0.1) for piece in pieces]
    for half in (False, True):
        for key in ("x", "t", "target", "eps"):
            rows = torch.cat([getattr(noisy, key)[p.prior == half] for noisy, p in zip(found, pieces, strict=True)])
            assert torch.equal(rows, getattr(expected, key)[one.prior == half]), key


def test_alone_is_what_a_plain_generator_draws() -> None:
    def normal(source: torch.Generator) -> torch.Tensor:
        return draws.draw(lambda rows: torch.randn(rows, 3, generator=source), 5, source)

    assert torch.equal(normal(draws.generator(4, draws.ALONE)), torch.randn(5, 3, generator=seeded(4)))
    assert torch.equal(normal(seeded(4)), torch.randn(5, 3, generator=seeded(4)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
