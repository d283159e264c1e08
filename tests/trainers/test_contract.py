"""What every trainer, ours or a stranger's, must do on every kind of model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from studio import loop, registry
from studio.config import RunConfig, layer, make, to_toml
from studio.loop import Tick
from studio.pipelines.adapters import files
from studio.pipelines.data import DataStream, Pictures
from studio.pipelines.protocols import Adapter, Backbone
from studio.trainers.base import Settings
from tests.models import BACKBONES, backbone

TRAINERS = registry.names("trainers")
FAST = {"steps": 3, "lr": 1e-3, "batch": 2, "precision": "no"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three plain pictures of different colours."""
    folder = tmp_path_factory.mktemp("photos")
    for i, colour in enumerate(("red", "teal", "gold")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{i}.png")
    return folder


@dataclass
class Lesson:
    """One training in the making."""

    model: Backbone
    adapter: Adapter
    stream: DataStream
    settings: Settings
    memory: dict[str, Any]
    losses: Iterator[Any]

    def run(self, **where: Any) -> list[Tick]:
        return list(loop.train(self.settings, self.model, self.adapter, self.losses, self.memory, **where))


def lesson(trainer: str, name: str, made: Path, photos: Path, **settings: Any) -> Lesson:
    """The trainer on the model `name`, with everything seeded."""
    module = registry.trainer(trainer)
    model = backbone(name, made)
    pictures = Pictures(folder=photos, class_word="cat")
    config = module.Config(**{"adapter": {"rank": 2}, **FAST, **settings}, data=pictures)
    stream = DataStream(model, pictures.read(model), batch=config.batch, seed=0)
    torch.manual_seed(0)
    adapter = config.adapter.build(model)
    memory: dict[str, Any] = {}
    losses = module.losses(config, model, adapter, stream, memory)
    return Lesson(model, adapter, stream, config, memory, losses)


def output(model: Backbone) -> Tensor:
    shape = (2, *model.latent_shape(model.pixels, model.pixels))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.predict(x, torch.tensor([100, 900]), model.embed(["a cat", "a red dog"]))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_it_explains_itself_and_its_settings(trainer: str) -> None:
    module = registry.trainer(trainer)
    assert module.__doc__
    assert issubclass(module.Config, Settings)
    config = module.Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 1
    assert undescribed(module.Config) == []


def undescribed(part: Any) -> list[str]:
    """Names of settings, at any depth, without help."""
    inner = [field.annotation for field in part.model_fields.values() if hasattr(field.annotation, "model_fields")]
    here = [f"{part.__name__}.{name}" for name, field in part.model_fields.items() if not field.description]
    return here + [name for one in inner for name in undescribed(one)]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_its_config_survives_toml(trainer: str, tmp_path: Path) -> None:
    config = RunConfig(trainer=trainer, settings=registry.trainer(trainer).Config(steps=7))
    (tmp_path / "run.toml").write_text(to_toml(config), encoding="utf-8")
    assert make(toml=layer(tmp_path / "run.toml")).settings == config.settings


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_three_steps(trainer: str, name: str, made: Path, photos: Path, tmp_path: Path) -> None:
    """Finite losses; only the adapter moves; the file gives the same model, the same seed the same run."""
    one = lesson(trainer, name, made, photos)
    base, weights, before = output(one.model), one.model.fingerprint(), one.adapter.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    ticks = one.run()
    assert [tick.step for tick in ticks] == [1, 2, 3]
    assert all(math.isfinite(value) for tick in ticks for value in tick.floats().values())
    assert any(not torch.equal(value, before[key]) for key, value in one.adapter.state_dict().items())
    trained = output(one.model)
    assert not torch.equal(trained, base)
    with one.adapter.off():
        assert torch.equal(output(one.model), base)
    assert one.model.fingerprint() == weights

    fresh = backbone(name, made)
    files.load(fresh, files.save(one.model, one.adapter, tmp_path / "adapter.safetensors"))  # type: ignore[arg-type]
    assert torch.equal(output(fresh), trained)

    again = lesson(trainer, name, made, photos)
    assert [tick.floats() for tick in again.run()] == [tick.floats() for tick in ticks]
    assert torch.equal(output(again.model), trained)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_stopped_and_resumed_equals_straight(trainer: str, made: Path, photos: Path) -> None:
    straight = lesson(trainer, "toy", made, photos, steps=5)
    ticks = straight.run()
    first = lesson(trainer, "toy", made, photos, steps=5)
    head = first.run(stop=lambda: first.stream.position >= 2)
    state, position = head[-1].state(), first.stream.position
    second = lesson(trainer, "toy", made, photos, steps=5)
    second.stream.position = position
    tail = second.run(start=head[-1].step, state=state)
    assert [tick.floats() for tick in head + tail] == [tick.floats() for tick in ticks]
    assert torch.equal(output(second.model), output(straight.model))
