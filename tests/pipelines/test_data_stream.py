"""Laws of the stream: pairs stay pairs, batches depend on (seed, position) alone, purposes draw apart."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from studio.pipelines.cache import Cache
from studio.pipelines.data import Dataset, DataStream, Pictures
from studio.pipelines.errors import DataError
from studio.pipelines.protocols import Batch


class Pooling:
    """An autoencoder whose latents are 8x8 averages, so that a latent says what its picture was."""

    pixels, multiple, device = 32, 8, torch.device("cpu")

    def __init__(self, spread: float = 0.0) -> None:
        self.spread, self.encoded = spread, 0

    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.encoded += len(images)
        mean = avg_pool2d(images, 8)
        return mean, torch.full_like(mean, self.spread)

    def vae_fingerprint(self) -> str:
        return "pooling"


def dataset(folder: Path, n: int = 7, **settings) -> Dataset:
    """n pictures of three shapes whose grey value is 20 times their index, with the index as the caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        size = [(32, 32), (40, 20), (20, 40)][i % 3] if settings.get("buckets", True) else (32, 32)
        Image.new("L", size, 20 * i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    return Pictures(folder=folder, **settings).read(Pooling())


def indices(batch: Batch) -> list[int]:
    """The picture of each row, read off its pixels."""
    return ((batch.latents.mean((1, 2, 3)) + 1) * 127.5 / 20).round().int().tolist()


def same(a: Batch, b: Batch) -> bool:
    tensors = all(torch.equal(getattr(a, key), getattr(b, key)) for key in ("latents", "prior", "weights"))
    noise = torch.equal(torch.randn(9, generator=a.generator), torch.randn(9, generator=b.generator))
    masks = a.masks is b.masks or torch.equal(a.masks, b.masks)
    return tensors and noise and masks and (a.prompts, a.ids) == (b.prompts, b.ids)


@pytest.mark.parametrize("cached", ["nowhere", "memory", "disk"])
@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_pictures_keep_their_captions(tmp_path, cached, batch, flip):
    """Pixels and captions carry the same index over three epochs, whatever the cache and the batch."""
    data = dataset(tmp_path / "data", flip=flip)
    cache = {"nowhere": None, "memory": Cache(None), "disk": Cache(tmp_path / "cache", keep=0)}[cached]
    stream = DataStream(Pooling(), data, batch=batch, seed=3, cache=cache)
    list(stream.fill())
    by_id = {example.id: example.caption for example in data.examples}
    for item in islice(stream, stream.order.start(3)):
        assert item.prompts == [f"picture {i}" for i in indices(item)]
        assert item.prompts == [by_id[i] for i in item.ids]


def test_repeats_are_what_an_epoch_shows(tmp_path):
    for name, grey in {"3_a cat": 40, "1_a dog": 80, "2_a cow": 120}.items():
        (tmp_path / name).mkdir()
        Image.new("L", (32, 32), grey).save(tmp_path / name / "x.png")
    stream = DataStream(Pooling(), Pictures(folder=tmp_path).read(Pooling()), batch=2, seed=0)
    for _ in range(4):
        seen = Counter(i for batch in islice(stream, 3) for i in indices(batch))
        assert seen == {2: 3, 4: 1, 6: 2}


@pytest.mark.parametrize("settings", [{}, {"crop": "random", "flip": True, "caption_dropout": 0.5}, {"masks": True}])
@pytest.mark.parametrize("prior", [False, True])
def test_position_resumes(tmp_path, settings, prior):
    data = dataset(tmp_path / "data", **settings)
    classes = dataset(tmp_path / "class", n=5) if prior else None

    def stream(cache: Cache | None = None) -> DataStream:
        return DataStream(Pooling(0.3), data, batch=2, seed=9, prior=classes, cache=cache)

    straight = list(islice(stream(), 9))
    resumed = stream(Cache(tmp_path / "cache"))
    resumed.position = 5
    assert all(same(a, b) for a, b in zip(straight[5:], islice(resumed, 4), strict=True))
    assert resumed.position == 9
    assert not same(stream().at(0), DataStream(Pooling(0.3), data, batch=2, seed=8, prior=classes).at(0))


def test_class_rows_follow_at_the_same_size(tmp_path):
    data, classes = dataset(tmp_path / "data"), dataset(tmp_path / "class", n=5)
    plain = DataStream(Pooling(0.3), data, batch=2, seed=1)
    both = DataStream(Pooling(0.3), data, batch=2, seed=1, prior=classes)
    seen: Counter[str] = Counter()
    for a, b in islice(zip(plain, both, strict=True), 10):
        assert b.prior.tolist() == [False, False, True, True]
        assert torch.equal(a.latents, b.latents[:2])
        assert a.prompts == b.prompts[:2]
        seen.update(b.ids[2:])
    assert seen == {example.id: 4 for example in classes.examples}


def test_caption_dropout_changes_captions_only(tmp_path):
    def batches(dropout: float) -> list[Batch]:
        data = dataset(tmp_path, caption_dropout=dropout, crop="random", flip=True)
        return list(islice(DataStream(Pooling(0.3), data, batch=4, seed=2), 25))

    kept, half, gone = batches(0), batches(0.5), batches(1)
    for a, b, c in zip(kept, half, gone, strict=True):
        assert torch.equal(a.latents, b.latents)
        assert torch.equal(a.latents, c.latents)
        assert torch.equal(torch.randn(4, generator=a.generator), torch.randn(4, generator=b.generator))
        assert all(y in (x, "") for x, y in zip(a.prompts, b.prompts, strict=True))
        assert not any(c.prompts)
    dropped = sum(not prompt for batch in half for prompt in batch.prompts)
    assert 30 < dropped < 70  # binomial(100, 1/2): four standard deviations either way


def test_flips_mirror_pictures_and_masks_together(tmp_path):
    picture = Image.new("L", (32, 32))
    picture.paste(255, (0, 0, 16, 32))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.mask.png")
    data = Pictures(folder=tmp_path, flip=True, masks=True).read(Pooling())
    stream = DataStream(Pooling(), data, batch=8, seed=0, cache=Cache(None))
    batch = stream.at(0)
    assert batch.masks is not None
    assert torch.allclose(batch.latents[:, :1], batch.masks * 2 - 1)
    assert 0 < (batch.masks[:, 0, 0, 0] == 1).sum() < 8


def test_random_crops_move_and_masks_move_along(tmp_path):
    ramp = Image.linear_gradient("L").resize((96, 32), box=(0, 0, 256, 256)).rotate(90, expand=True).resize((96, 32))
    ramp.save(tmp_path / "a.png")
    ramp.save(tmp_path / "a.mask.png")
    data = Pictures(folder=tmp_path, crop="random", masks=True, buckets=False).read(Pooling())
    stream = DataStream(Pooling(), data, batch=6, seed=0, cache=Cache(None))
    assert list(stream.fill()) == []
    batch = stream.at(0)
    assert batch.masks is not None
    assert torch.allclose(batch.latents[:, :1], batch.masks * 2 - 1, atol=1e-5)
    assert len({round(float(x), 4) for x in batch.latents.mean((1, 2, 3))}) == 6


def test_posterior_is_drawn_anew_each_time(tmp_path):
    data = dataset(tmp_path, n=1)
    stream = DataStream(Pooling(1.0), data, batch=200, seed=0, cache=Cache(None))
    draws = stream.at(0).latents
    assert draws.shape == (200, 3, 4, 4)
    assert float(draws.std(0).mean()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(draws, stream.at(1).latents)


def test_a_file_changed_since_the_check_is_refused(tmp_path):
    data = dataset(tmp_path, n=1)
    Image.new("L", (32, 32), 7).save(tmp_path / "0.png")
    with pytest.raises(DataError, match="was changed"):
        DataStream(Pooling(), data, batch=1, seed=0).at(0)
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match="cannot be read any more"):
        DataStream(Pooling(), data, batch=1, seed=0).at(0)


def test_pictures_are_in_minus_one_to_one(tmp_path):
    for name, grey in {"a": 0, "b": 255}.items():
        Image.new("L", (32, 32), grey).save(tmp_path / f"{name}.png")
    data = Pictures(folder=tmp_path).read(Pooling())
    values = DataStream(Pooling(), data, batch=2, seed=0).at(0).latents
    assert sorted(values.mean((1, 2, 3)).tolist()) == [-1, 1]
