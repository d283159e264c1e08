"""Laws of zooms: pixels, mask and caption tell one story, and nobody who asks for none sees any of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from studio.pipelines import backbone, buckets, consistency
from studio.pipelines.adapters import lora
from studio.pipelines.cache import Cache
from studio.pipelines.data import Dataset, DataStream, Pictures
from studio.pipelines.data_view import View
from studio.pipelines.data_zoom import FAR, HEADS, NEAR, WHOLE, Zoom, cells, draw
from studio.pipelines.protocols import Batch
from studio.store import Run
from studio.train import train
from studio.trainers import class_diffusion, dreambooth
from tests import runs

MANY = 2000


class Pooling:
    """An autoencoder whose latents are 8x8 averages; it counts what it encodes."""

    pixels, multiple, device = 64, 8, torch.device("cpu")
    encoded = 0

    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.encoded += len(images)
        return avg_pool2d(images, 8), torch.full((len(images), 3, images.shape[2] // 8, images.shape[3] // 8), 0.1)

    def vae_fingerprint(self) -> str:
        return "pooling"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """White pictures of three shapes; one has a mask (its left half) and one a caption."""
    place = tmp_path / "data"
    place.mkdir()
    for number, size in enumerate([(64, 64), (96, 48), (40, 80)]):
        Image.new("RGB", size, "white").save(place / f"{number}.png")
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(place / "0.mask.png")
    (place / "1.txt").write_text("sks dog on grass")
    return place


def read(folder: Path, **settings: Any) -> Dataset:
    return Pictures(folder=folder, class_word="dog", **settings).read(Pooling())


def stream(data: Dataset, seed: int = 3, **settings: Any) -> DataStream:
    return DataStream(Pooling(), data, **{"batch": 3, "seed": seed, **settings})


def same(a: Batch, b: Batch) -> bool:
    masks = a.masks is b.masks or torch.equal(a.masks, b.masks)
    return torch.equal(a.latents, b.latents) and masks and (a.prompts, a.ids) == (b.prompts, b.ids)


def view(data: Dataset, zoom: Zoom, number: int = 0, flip: bool = False) -> View:
    example = data.examples[number]
    box = buckets.crop_box(example.size, example.bucket)
    return View(example, data.settings, example.bucket, box, flip, "", zoom)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (77, 53)])
def test_scale_one_is_the_picture_bit_for_bit(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8))
    box = buckets.crop_box(image.size, size)
    for zoom in (WHOLE, Zoom(1.0, (0.0, 0.9))):
        assert torch.equal(zoom.fit(image, size, box, 0.5), buckets.fit(image, size, box))
        assert torch.equal(zoom.inside(size), torch.ones(1, size[1], size[0]))


def test_draws_follow_the_published_rule() -> None:
    """Within four standard deviations of binomial and uniform draws."""
    found = [draw(0, "picture", number) for number in range(MANY)]
    small = [zoom.scale for zoom in found if zoom.scale <= 1]
    large = [zoom.scale for zoom in found if zoom.scale > 1]
    assert abs(len(small) / MANY - 0.66) < 4 * (0.66 * 0.34 / MANY) ** 0.5
    for scales, low, high in ((small, 1 / 3, 1.0), (large, 1.2, 1.4)):
        assert low <= min(scales) <= max(scales) <= high
        spread = (high - low) / 12**0.5
        assert abs(float(np.mean(scales)) - (low + high) / 2) < 4 * spread / len(scales) ** 0.5
    for zoom in found:
        assert zoom.words in (FAR if zoom.scale < 0.6 else NEAR if zoom.scale > 1 else ("",))
        assert all(0 <= at < 1 for at in zoom.at)
    words = Counter(zoom.words for zoom in found)
    assert set(words) == set(HEADS)
    assert all(abs(words[a] - words[b]) < 4 * (words[a] + words[b]) ** 0.5 for a, b in (FAR, NEAR))
    assert found[:9] == [draw(0, "picture", number) for number in range(9)]
    assert found[:9] != [draw(1, "picture", number) for number in range(9)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_the_mask_is_where_the_picture_is(folder: Path, number: int, flip: bool) -> None:
    """White pictures: grey (0) and white (1) are told apart in pixels, and in latents the mask is white alone."""
    data = read(folder)
    for zoom in (draw("mask", n) for n in range(40)):
        shown = view(data, zoom, number, flip)
        pixels, inside = shown.pixels(), shown.inside()
        assert torch.equal(pixels, inside.expand_as(pixels))
        width, height = shown.bucket
        sides = [min(side, round(side * zoom.scale)) for side in (width, height)]
        assert inside.sum() == sides[0] * sides[1]
        latents = avg_pool2d(inside[None], 8)
        mask = cells(inside[None], (height // 8, width // 8))
        assert mask.any()
        if (latents == 1).any():
            assert torch.equal(mask, (latents == 1).float())
        else:
            torch.testing.assert_close(mask, latents)


def test_a_zoomed_in_picture_is_a_part_of_it(tmp_path: Path) -> None:
    """A ramp that grows by the pixel: the part's slope is the whole's over the scale, its middle where `at` says."""
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    image, box = Image.fromarray(ramp), (0.0, 0.0, 64.0, 64.0)
    for at in (0.0, 0.5, 0.99):
        zoom = Zoom(1.28, (at, 0.3))
        seen = zoom.fit(image, (64, 64), box, 0.5)[0, 32] * 255 / 4
        assert float(seen[40] - seen[20]) == pytest.approx(20 / 1.28, abs=0.3)
        assert float(seen.mean()) == pytest.approx(31.5 + (at - 0.5) * 14, abs=0.3)
        left, top, right, bottom = zoom.cut((3.0, 5.0, 67.0, 37.0))
        assert 3 <= left < right <= 67
        assert 5 <= top < bottom <= 37
        assert (right - left, bottom - top) == pytest.approx((50, 25))


def test_a_persons_mask_is_zoomed_with_its_picture(folder: Path) -> None:
    data, bare = read(folder, masks=True, zooms=8), read(folder, zooms=8)
    for a, b in islice(zip(stream(data), stream(bare), strict=True), 12):
        assert a.masks is not None
        assert b.masks is not None
        assert torch.equal(a.latents, b.latents)
        assert (a.masks <= b.masks).all()
        for row, name in enumerate(a.ids):
            if name != data.examples[0].id:
                assert torch.equal(a.masks[row], b.masks[row])
    for zoom in (Zoom(0.5, (0.5, 0.5)), Zoom(0.5, (0.0, 0.99))):
        shown = view(data, zoom)
        rows, columns = zoom.place((64, 64))
        middle, mask = columns.start + 16, shown.mask()[0, rows]
        assert (mask[:, columns.start : middle - 1] > 0.9).all()  # the edge itself is antialiased
        assert (mask[:, middle + 1 : columns.stop] < 0.1).all()
        assert not (shown.mask() * (1 - shown.inside())).any()


@pytest.mark.parametrize("settings", [{}, {"flip": True, "caption_dropout": 0.3}, {"crop": "random"}])
def test_position_resumes_and_the_cache_changes_nothing(folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    data = read(folder, zooms=5, **settings)
    straight = list(islice(stream(data), 9))
    resumed = stream(data, cache=Cache(tmp_path / "cache", keep=0))
    total = [total for _, total in resumed.fill()]
    assert total == [] if "crop" in settings else len(total) == 3 * 5 * (1 + ("flip" in settings))
    resumed.model.encoded = 0  # type: ignore[attr-defined]
    resumed.position = 4
    assert all(same(a, b) for a, b in zip(straight[4:], islice(resumed, 5), strict=True))
    assert bool(resumed.model.encoded) == ("crop" in settings)  # type: ignore[attr-defined]
    first = data.examples[0]
    kept, again, other = (set(stream(data, seed).zooms(first, data, 0, 5)) for seed in (3, 3, 4))
    assert kept == again
    assert kept.isdisjoint(other)
    assert {prompt for batch in straight for prompt in batch.prompts} <= set(data.captions)


def test_zooms_leave_every_other_draw_alone(folder: Path) -> None:
    """Which pictures, their order, mirroring, dropped captions, noise: as without; and only small ones are masked."""
    settings = {"flip": True, "caption_dropout": 0.3, "crop": "random"}
    seen: Counter[str] = Counter()
    for a, b in islice(
        zip(stream(read(folder, **settings)), stream(read(folder, zooms=9, **settings)), strict=True), 40
    ):
        assert (a.ids, a.masks) == (b.ids, None)
        assert torch.equal(torch.randn(9, generator=a.generator), torch.randn(9, generator=b.generator))
        assert b.masks is not None
        for row, (plain, zoomed) in enumerate(zip(a.prompts, b.prompts, strict=True)):
            head = zoomed.removesuffix(plain) if plain else zoomed
            assert head in (HEADS if plain else ("",))
            seen[head] += 1
            if head in NEAR:
                assert b.masks[row].all()
            if head in FAR:
                assert b.masks[row].mean() < 0.6**2
    assert set(seen) == set(HEADS)


def test_class_pictures_fill_their_frame(folder: Path) -> None:
    """Even where their own settings say otherwise."""
    data, classes = read(folder, zooms=6), read(folder, zooms=6, prompt="a photo of a dog")
    plain = stream(read(folder), prior=read(folder, prompt="a photo of a dog"))
    for a, b in islice(zip(stream(data, prior=classes), plain, strict=True), 6):
        assert a.masks is not None
        assert a.masks[3:].all()
        assert torch.equal(a.latents[3:], b.latents[3:])
        assert a.prompts[3:] == b.prompts[3:]


def test_without_zooms_addresses_captions_and_fingerprints_are_as_before(folder: Path, tmp_path: Path) -> None:
    """A cache and a run that were begun before there were zooms go on."""
    data, cache = read(folder), Cache(None)
    known = data.settings.model_dump(mode="json", exclude={"folder", "zooms"})
    lines = sorted([e.content, e.mask_content, e.caption, e.bucket, e.repeats, e.weight] for e in data.examples)
    assert data.fingerprint() == hashlib.sha256(json.dumps([known, lines], sort_keys=True).encode()).hexdigest()
    assert data.fingerprint() != read(folder, zooms=1).fingerprint()
    list(stream(data, cache=cache).fill())
    before = set(cache.memory)
    list(stream(read(folder, zooms=2), cache=cache).fill())
    assert len(before) == 3
    assert len(cache.memory) == 3 + 2 * 3
    assert data.captions == tuple(dict.fromkeys(example.caption for example in data.examples))


def test_a_reference_hears_the_same_distance(folder: Path) -> None:
    """What DCO's frozen model is told: the caption's twin, with its beginning."""
    (folder / "2.base.txt").write_text("a dog, in the folder's words")
    data = read(folder, zooms=8)
    assert any("base captions" in text for text in data.warnings)
    source = stream(data)
    for batch in islice(source, 8):
        told = consistency.captions(batch, 3, source.bases, "sks", "dog")
        for prompt, text in zip(batch.prompts, told, strict=True):
            head = next((head for head in (*FAR, *NEAR) if prompt.startswith(head)), "")
            assert text == head + prompt.removeprefix(head).replace("sks dog", "dog")


@pytest.mark.parametrize("reduction", ["mean", "sum_channels"])
def test_a_mask_of_ones_is_no_mask(folder: Path, reduction: str) -> None:
    """The mean squared error; with `sum_channels`, as published, times the number of channels."""
    model: Any = backbone.load("toy")
    adapter = lora.Config(rank=2).build(model)
    data = DataStream(model, Pictures(folder=folder, class_word="dog", buckets=False).read(model), batch=3, seed=0)
    values = []
    for masks in (None, torch.ones(3, 1, 4, 4)):
        batch = replace(data.at(0), masks=masks)
        config = class_diffusion.Config(spl_weight=0, reduction=reduction, data=data.dataset.settings)
        values.append(next(class_diffusion.losses(config, model, adapter, Only(batch), {})).value)
    noisy = dreambooth.noised(model, data.at(0), 0.0)
    error = model.predict(noisy.x, noisy.t, model.embed(data.at(0).prompts)) - noisy.target
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[1], error.square().mean() * (2 if reduction == "sum_channels" else 1))


class Only:
    """A stream of one batch."""

    position = 0

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Any:
        return iter([self.batch])


def test_grey_teaches_nothing(folder: Path) -> None:
    """What lies outside the mask is another picture, and the loss is the same."""
    model: Any = backbone.load("toy")
    adapter: Any = lora.Config(rank=2).build(model)
    data = DataStream(model, Pictures(folder=folder, zooms=40).read(model), batch=8, seed=0)
    batch = data.at(0)
    assert batch.masks is not None
    prediction = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    other = torch.where(batch.masks == 0, torch.full_like(prediction, 1e6), prediction)
    assert not torch.equal(other, prediction)
    errors = [dreambooth.per_sample(one, batch.latents, batch.masks) for one in (prediction, other)]
    assert torch.equal(*errors)
    adapter.remove()


def test_a_run_with_zooms_goes_on_bit_for_bit(tmp_path: Path) -> None:
    data, settings = runs.pictures(tmp_path / "data"), {"data": {"zooms": 4}, "previews": {"every": 0, "steps": 1}}
    train(runs.config(data, tmp_path / "straight", **settings))
    broken = tmp_path / "broken"

    def stop(event: Any) -> None:
        if event.phase == "train" and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(runs.config(data, broken, **settings), stop)
    train(runs.config(data, broken, **settings))
    assert Run(broken / "one").state() == "done"
    assert runs.files(broken / "one") == runs.files(tmp_path / "straight" / "one")
