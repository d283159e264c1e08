"""Laws of the cache: addressed by content, never trusted when damaged, invisible in the results."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.pipelines.cache import Cache, Embeddings, address
from studio.pipelines.data import DataStream, Pictures
from studio.pipelines.errors import DataError, MemoryShortage
from studio.pipelines.protocols import Cond


class Pooling:
    """An autoencoder of 8x8 averages and a text encoder of character codes."""

    pixels, multiple, device = 32, 8, torch.device("cpu")

    def __init__(self, version: str = "1") -> None:
        self.version, self.encoded, self.texts = version, 0, []

    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.encoded += len(images)
        mean = torch.nn.functional.avg_pool2d(images, 8)
        return mean, torch.zeros_like(mean)

    def embed(self, prompts: list[str]) -> Cond:
        self.texts += prompts
        codes = torch.tensor([[sum(map(ord, prompt)), len(prompt)] for prompt in prompts]).float()
        return Cond(codes[:, :, None], codes, {"mask": codes.bool()})

    def vae_fingerprint(self) -> str:
        return self.version

    def text_fingerprint(self) -> str:
        return self.version


def fill(folder: Path, cache: Path, version: str = "1", **settings) -> int:
    """How many pictures had to be encoded to fill the cache."""
    model = Pooling(version)
    stream = DataStream(model, Pictures(folder=folder, **settings).read(model), batch=2, seed=0, cache=Cache(cache))
    progress = list(stream.fill())
    assert progress == [(done, len(progress)) for done in range(1, len(progress) + 1)]
    stream.at(0)
    return model.encoded


def pictures(folder: Path, n: int = 4) -> Path:
    folder.mkdir()
    for i in range(n):
        Image.new("RGB", (32, 32 + 8 * i), (50 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


def test_latents_are_found_by_content(tmp_path):
    folder, cache = pictures(tmp_path / "data"), tmp_path / "cache"
    assert fill(folder, cache) == 4
    assert fill(folder, cache) == 0
    (folder / "0.txt").write_text("another caption")
    (folder / "1.png").rename(folder / "renamed.png")
    folder = folder.rename(tmp_path / "elsewhere")
    assert fill(folder, cache) == 0
    Image.new("RGB", (32, 32), "green").save(folder / "2.png")
    assert fill(folder, cache) == 1
    assert fill(folder, cache, flip=True) == 4  # the mirrored ones alone are new
    assert fill(folder, cache, resolution=64) == 4
    assert fill(folder, cache, version="2") == 4
    assert not list(cache.glob(".*"))


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "foreign", "swapped"])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    made = {"x": torch.arange(6.0)}
    Cache(tmp_path)("name", lambda: made)
    path = tmp_path / "name.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage in ("cut", "empty"):
        path.write_bytes(data[: len(data) - 4 if damage == "cut" else 0])
    elif damage == "foreign":
        save_file({"x": torch.zeros(6)}, path)
    else:
        Cache(tmp_path)("other", lambda: {"x": torch.zeros(6)})
        os.replace(tmp_path / "other.safetensors", path)
    cache = Cache(tmp_path)
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(cache("name", lambda: made)["x"], made["x"])
    assert (cache.hits, cache.misses) == (0, 1)
    assert torch.equal(load_file(path)["x"], made["x"])


def test_types_and_shapes_survive(tmp_path):
    made = {
        "a": torch.tensor(1.5),
        "b": torch.randn(2, 3).bfloat16().T,
        "c": torch.tensor([True]),
        "d": torch.ones(0, 2),
    }
    Cache(tmp_path)("x", lambda: made)
    read = Cache(tmp_path)("x", dict)
    assert all(torch.equal(read[key], made[key]) and read[key].dtype == made[key].dtype for key in made)


def test_memory_is_bounded(tmp_path):
    cache = Cache(tmp_path, keep=1000)
    for i in range(20):
        cache(str(i), lambda: {"x": torch.zeros(50)})
        assert cache.size == sum(t.nbytes for e in cache.memory.values() for t in e.values()) <= 1000
    assert list(cache.memory) == [str(i) for i in range(15, 20)]
    assert Cache(tmp_path)("0", dict)["x"].shape == (50,)


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, MemoryShortage), (errno.EACCES, DataError)])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, number, kind):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(kind, match=os.strerror(number)):
        Cache(tmp_path)("x", lambda: {"x": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_addresses_depend_on_every_part():
    assert address(a=1, b="2") == address(b="2", a=1)
    assert len({address(a=1), address(a="1"), address(b=1), address(a=1, b=None)}) == 4


@pytest.mark.parametrize("disk", [False, True])
def test_embeddings_are_those_of_the_model(tmp_path, disk):
    model, prompts = Pooling(), ["a dog", "", "a dog", "größe 🐱"]
    expected = model.embed(prompts)
    model.texts.clear()
    embeddings = Embeddings(model, tmp_path if disk else None)
    assert list(embeddings.fill(prompts[:2])) == [(1, 2), (2, 2)]
    model.embed = embeddings  # as a run does
    cond = model.embed(prompts)
    assert torch.equal(cond.tokens, expected.tokens)
    assert torch.equal(cond.pooled, expected.pooled)
    assert torch.equal(cond.extra["mask"], expected.extra["mask"])
    assert model.texts == ["a dog", "", "größe 🐱"]
    again, other = Pooling(), Pooling("2")
    Embeddings(again, tmp_path if disk else None)(prompts)
    Embeddings(other, tmp_path if disk else None)(prompts)
    assert (len(again.texts), len(other.texts)) == ((0 if disk else 3), 3)
