"""A run that goes on from an adapter: what it begins with, what it compares with, and when it is another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from studio import start
from studio.config import RunConfig, make
from studio.pipelines import backbone
from studio.pipelines.adapters import files, lora
from studio.pipelines.drawing import Drawing
from studio.pipelines.errors import UsageError
from studio.store import Run
from studio.train import train
from studio.trainers.rewarded import reference
from tests import runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of another rank than the default's, with a trigger of its own."""
    return train(config(data, tmp_path_factory.mktemp("first"), "one", rank=3, trigger="zwx"))


def config(data: Path, folder: Path, name: str, rank: int = 2, trigger: str = "sks", **settings: Any) -> RunConfig:
    own = {"steps": 2, "lr": 1e-2, "precision": "no", "previews": {"steps": 2}, "adapter": {"rank": rank}}
    own |= {"data": {"folder": data, "trigger": trigger}} | settings
    return make("dreambooth", flags={"model": "toy", "run": name, "runs": folder, "settings": own})


def weights(path: Path) -> dict[str, Tensor]:
    """The tensors of an adapter file on the toy model."""
    return {name: tensor.clone() for name, tensor in files.load(backbone.load("toy"), path).state_dict().items()}


@pytest.mark.parametrize("what", ["", files.NAME])
def test_it_begins_with_the_files_weights_and_rank(first: Path, what: str, data: Path, tmp_path: Path) -> None:
    """With so small a step that nothing moves, it ends with them too."""
    folder = train(config(data, tmp_path, "two", start=first / what, lr=1e-12, trigger="zwx"))
    before, after = weights(first / files.NAME), weights(folder / files.NAME)
    assert before.keys() == after.keys()
    assert all(torch.allclose(tensor, after[name], atol=1e-9) for name, tensor in before.items())
    said = [event.get("message") or "" for event in Run(folder).events()]
    assert not [text for text in said if text.startswith("start:")]


def test_its_pictures_stand_between_the_base_models_and_the_adapters(first: Path, data: Path, tmp_path: Path) -> None:
    """Drawn before the first step by what the start ends with, and not again by a run that is resumed."""

    def pixels(path: Path) -> np.ndarray[Any, Any]:
        return np.asarray(Image.open(path))

    folder = train(config(data, tmp_path, "two", start=first, trigger="zwx", steps=2))
    begun, ended = folder / "samples" / "000000-00.png", first / "samples" / "000002-00.png"
    assert np.array_equal(pixels(begun), pixels(ended))
    assert not np.array_equal(pixels(begun), pixels(folder / "samples" / "000002-00.png"))
    assert not (first / "samples" / "000000-00.png").exists()
    wider = pixels(folder / "grid.png").shape[1], pixels(first / "grid.png").shape[1]
    assert wider[0] > wider[1]
    begun.unlink()
    train(config(data, tmp_path, "two", start=first, trigger="zwx", steps=4))
    assert not begun.exists()  # by now it would be of other weights


def test_another_trigger_is_told(first: Path, data: Path, tmp_path: Path) -> None:
    folder = train(config(data, tmp_path, "two", start=first))
    warned = [event.get("message") for event in Run(folder).events() if event.event == "warning"]
    assert [text for text in warned if text and "'zwx'" in text and "'sks'" in text]


@pytest.mark.parametrize(
    ("trainer", "sampler"),
    [("rlcm", "lcm"), ("rlcm", "tcd"), ("alignprop", "auto"), ("ddpo", "ddim"), ("dreambooth", "")],
)
def test_many_steps_with_an_adapter_of_few_are_told(trainer: str, sampler: str, data: Path, tmp_path: Path) -> None:
    """Only to a run that draws by itself to learn: what others show is told where it is drawn."""
    model = backbone.load("toy")
    made = lora.Config(rank=2).build(model)
    path = files.save(model, made, tmp_path / files.NAME, Drawing("tcd", 4, 1.0).header)
    own = {"start": path, "data": {"folder": data}} | ({"sampler": sampler} if sampler else {})
    settings: Any = make(trainer, flags={"model": "toy", "settings": own}).settings
    said = list(start.doubts(settings, settings.data.read(model)))
    told = f"start: adapter.safetensors is made for tcd, 4 steps, guidance 1; this run draws with sampler = {sampler}"
    assert said == ([told] if sampler in ("auto", "ddim") else [])


def test_it_resumes_with_its_start_and_not_with_another(first: Path, data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes((first / files.NAME).read_bytes())
    straight = train(config(data, tmp_path / "a", "two", start=mine, steps=4))
    train(config(data, tmp_path / "b", "two", start=mine, steps=2, save_every=2))
    resumed = train(config(data, tmp_path / "b", "two", start=mine, steps=4))
    ours, theirs = weights(straight / files.NAME), weights(resumed / files.NAME)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    mine.write_bytes((straight / files.NAME).read_bytes())
    with pytest.raises(UsageError, match="start"):
        train(config(data, tmp_path / "b", "two", start=mine, steps=6))


def test_what_is_no_start(data: Path, tmp_path: Path) -> None:
    for place, said in ((tmp_path / "nothing", "not there"), (tmp_path, "without an adapter")):
        with pytest.raises(UsageError, match=said):
            start.resolve(config(data, tmp_path / "runs", "two", start=place))


def test_the_reference_is_the_start_bit_for_bit() -> None:
    """Inside it the model draws as it did at the beginning; a graph that was begun outside survives it."""
    model = backbone.load("toy")
    adapter = lora.Config(rank=2).build(model)
    torch.manual_seed(0)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    memory = {"start": {name: tensor.clone() for name, tensor in adapter.state_dict().items()}}
    x, t, cond = torch.randn(1, *model.latent_shape(8, 8)), torch.tensor([500]), model.embed(["a cat"])
    begun = model.predict(x, t, cond).detach()
    for parameter in adapter.parameters():
        parameter.data.mul_(1.5)
    now = model.predict(x, t, cond)
    plain = torch.autograd.grad(now.sum(), adapter.parameters(), retain_graph=True)
    with reference(adapter, memory):
        assert torch.equal(model.predict(x, t, cond), begun)
    assert torch.equal(model.predict(x, t, cond), now)
    assert all(map(torch.equal, plain, torch.autograd.grad(now.sum(), adapter.parameters())))
    with reference(adapter, {}):
        base = model.predict(x, t, cond)
    with adapter.off():
        assert torch.equal(model.predict(x, t, cond), base)
