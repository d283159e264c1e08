"""Drawing for an evaluation: batches, what is kept, what decides a picture, and pictures that are none."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from studio.evaluation.gallery import Drawn, Gallery, How, read, unread
from studio.evaluation.records import Source
from studio.evaluation.sets import PromptSet, wanted
from studio.pipelines import backbone
from studio.pipelines.adapters import lora
from studio.pipelines.protocols import Backbone, Cond

BASE = Source("base", "toy", class_word="dog")
ADAPTER = Source("mine", "toy", "adapter.safetensors", 1.0, 0, "sks", "dog")
SETS = [
    PromptSet(name="recontext", prompts=("a {subject} in the snow", "a {subject} on a hill")),
    PromptSet(name="class", prompts=("a {subject} in the snow",), trigger=False),
]


@pytest.fixture
def model() -> Backbone:
    """The toy with an adapter that changes what it draws."""
    model = backbone.load("toy")
    adapter = lora.Config(targets="all", rank=2).build(model)
    torch.manual_seed(0)
    for parameter in adapter.parameters():
        parameter.data.normal_(0, 0.3)
    return model


def gallery(model: Backbone, source: Source = ADAPTER, folder: Path | None = None, batch: int = 0) -> Gallery:
    trigger = source.trigger
    return Gallery(model, source, wanted(SETS, [3, 4], trigger, "dog"), How(2, 3.0, "auto", batch), folder)


def drawn(gallery: Gallery) -> Drawn:
    for _ in gallery.run():
        pass
    return gallery.result()


def counted(model: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each decoding made, from now on."""
    counts: list[int] = []
    decode = model.decode

    def counting(latents: Tensor) -> Tensor:
        counts.append(len(latents))
        return decode(latents)

    monkeypatch.setattr(model, "decode", counting)
    return counts


def test_a_picture_does_not_depend_on_its_batch(model: Backbone):
    alone, together = drawn(gallery(model, batch=1)), drawn(gallery(model, batch=6))
    for one, other in zip(alone.pictures, together.pictures, strict=True):
        assert one is not None
        assert other is not None
        assert (one.int() - other.int()).abs().max() <= 1


def test_the_base_is_drawn_without_the_adapter(model: Backbone):
    base, fresh = drawn(gallery(model, BASE)), drawn(gallery(backbone.load("toy"), BASE))
    assert torch.equal(base.batch(range(6)), fresh.batch(range(6)))
    assert not torch.equal(base.batch(range(6)), drawn(gallery(model)).batch(range(6)))


def test_what_was_drawn_is_not_drawn_again(model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = gallery(model, folder=tmp_path, batch=2)
    steps = first.run()
    assert list(itertools.islice(steps, 4))[-1] == (3, 6)
    steps.close()  # as a request to stop does
    there = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    counts = counted(model, monkeypatch)
    again = gallery(model, folder=tmp_path)
    assert next(again.run())[0] == len(there) == 3
    whole = drawn(gallery(model, folder=tmp_path))
    assert sum(counts) == 3
    assert all(file.stat().st_mtime_ns == time for file, time in there.items())
    monkeypatch.undo()
    fresh = drawn(gallery(model, batch=2))
    assert (whole.batch(range(6)) - fresh.batch(range(6))).abs().max() <= 1 / 255 + 1e-6
    assert [one.file for one in whole.made] == [file.relative_to(tmp_path).as_posix() for file in (
        tmp_path / one.file for one in whole.made)]  # fmt: skip
    assert all((tmp_path / one.file).is_file() for one in whole.made)


def test_another_strength_adapter_or_step_is_another_picture(model: Backbone, tmp_path: Path):
    drawn(gallery(model, folder=tmp_path))
    weaker = Source("mine", "toy", "adapter.safetensors", 0.5, 0, "sks", "dog")
    assert next(gallery(model, weaker, tmp_path).run())[0] == 0
    more = gallery(model, folder=tmp_path)
    more.how = How(3, 3.0)
    assert next(more.run())[0] == 0
    assert next(gallery(model, folder=tmp_path).run())[0] == 6
    assert model.adapter is not None
    model.adapter.parameters()[0].data.add_(0.1)
    assert next(gallery(model, folder=tmp_path).run())[0] == 0


def test_the_base_model_draws_a_prompt_of_two_sets_once(
    model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    counts = counted(model, monkeypatch)
    base = drawn(gallery(model, BASE, tmp_path))
    assert sum(counts) == 4  # of six, as the class set asks the base for what recontext asked
    assert len(list(tmp_path.rglob("*.png"))) == 6
    assert torch.equal(base.batch([0, 1]), base.batch([4, 5]))


def test_a_damaged_picture_is_drawn_again(model: Backbone, tmp_path: Path):
    first = drawn(gallery(model, folder=tmp_path))
    files = [tmp_path / one.file for one in first.made]
    files[0].write_bytes(files[0].read_bytes()[:60])
    files[1].unlink()
    again = drawn(gallery(model, folder=tmp_path))
    assert torch.equal(first.batch(range(6)), again.batch(range(6)))


def test_numbers_that_are_none_stay_none(model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    predict = model.predict

    def broken(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        out = predict(x, t, cond)
        return torch.where(torch.arange(len(out)).view(-1, 1, 1, 1) % 6 == 2, torch.nan, out)

    monkeypatch.setattr(model, "predict", broken)
    found = drawn(gallery(model, folder=tmp_path, batch=6))
    assert [picture is None for picture in found.pictures] == [row == 2 for row in range(6)]
    assert found.batch([1, 2]).isnan().flatten(1).all(1).tolist() == [False, True]
    again = drawn(gallery(model, folder=tmp_path))
    assert again.pictures[2] is None


def test_a_picture_says_what_it_is(model: Backbone, tmp_path: Path):
    made = gallery(model, folder=tmp_path)
    found = drawn(made)
    for one, key, picture in zip(found.made, made.keys, found.pictures, strict=True):
        kept = read(tmp_path / one.file, key)
        assert kept is not None
        assert kept[0] is not None
        assert picture is not None
        assert torch.equal(kept[0], picture)
        assert read(tmp_path / one.file, "another") is None


def test_a_batch_that_does_not_fit_is_halved(model: Backbone, monkeypatch: pytest.MonkeyPatch):
    decode, sizes = model.decode, []

    def small(latents: Tensor) -> Tensor:
        sizes.append(len(latents))
        if len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents)

    whole = drawn(gallery(model))
    monkeypatch.setattr(model, "decode", small)
    found = drawn(gallery(model, batch=6))
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert (found.batch(range(6)) - whole.batch(range(6))).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize(("count", "said"), [(1, "the end of a prompt is"), (3, "the end of 3 prompts is")])
def test_prompts_that_are_not_read_to_their_end_are_told_shortly(model: Backbone, count: int, said: str):
    prompts = [" ".join(f"word{n}" for n in range(number, 900)) for number in range(count)]
    note = next(unread(model, "toy", [*prompts, "a dog"]))
    assert said in note
    assert "..." in note
    assert len(note) < 200
    assert not list(unread(model, "toy", ["a dog"]))
