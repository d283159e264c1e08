"""What every trainer, ours or a stranger's, must do on every kind of model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from studio import loop, registry
from studio.config import RunConfig, layer, make, to_toml
from studio.guards import NotFinite
from studio.loop import Tick
from studio.pipelines.adapters import files, together
from studio.pipelines.data import DataStream, Pictures
from studio.pipelines.data_prompts import PromptStream
from studio.pipelines.protocols import Adapter, Backbone, Batch
from studio.trainers.base import Settings
from studio.trainers.rewarded import Settings as Rewarded
from tests.models import BACKBONES, backbone
from tests.states import differences, frozen, through_disk

TRAINERS = registry.names("trainers")
FAST = {"steps": 3, "lr": 1e-3, "batch": 2, "precision": "no"}
SMALL = {"sara": {"quantile": 0.1}}  # adapters that have no rank
# a reward that needs no encoder, and as little drawing as there can be
REWARDED: dict[str, Any] = {
    "prompts": {"texts": ["a cat", "a red dog", "a dog"]},
    "reward": {"terms": ["jpeg-soft-bits"]},
    "guard": {"every": 0},
    "sampler_steps": 2,
}
OWN: dict[str, dict[str, Any]] = {"rlcm": {"rollout": 2}, "ddpo": {"rollout": 2}}
KINDS = [name for name in BACKBONES if name != "tiny-sd-v"]  # the embedded one predicts v too
RESUMED = ("toy", "tiny-sd-eps", "tiny-sd3")  # the embedded base's resuming is tested through whole runs


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
    stream: DataStream | PromptStream
    settings: Settings
    memory: dict[str, Any]
    losses: Iterator[Any]

    def run(self, **where: Any) -> list[Tick]:
        return list(self.ticks(**where))

    def ticks(self, **where: Any) -> Iterator[Tick]:
        return loop.train(self.settings, self.model, self.adapter, self.losses, self.memory, data=self.stream, **where)


def lesson(trainer: str, name: str, made: Path, photos: Path, **settings: Any) -> Lesson:
    """The trainer on the model `name`, with everything seeded."""
    module = registry.trainer(trainer)
    model = backbone(name, made)
    kind: Any = Pictures if rewarded(trainer) else module.Config.model_fields["data"].annotation
    pictures = kind(folder=photos, class_word="cat")
    words = {"adapter": SMALL.get(trainer, {"rank": 2}), **FAST, **settings}
    stream: DataStream | PromptStream
    if rewarded(trainer):
        config = module.Config(**{**REWARDED, **OWN.get(trainer, {}), **words})
        dataset = config.data.read(model)
        stream = PromptStream(model, config.prompts.read(dataset, False), dataset, batch=config.batch, seed=0)
    else:
        config = module.Config(**words, data=pictures)
        stream = DataStream(model, pictures.read(model), batch=config.batch, seed=0)
    torch.manual_seed(0)
    adapter = together.build(config.adapter, config.tokens, model, stream.dataset)
    memory: dict[str, Any] = {}
    losses = module.losses(config, model, adapter, stream, memory)
    return Lesson(model, adapter, stream, config, memory, losses)


def rewarded(trainer: str) -> bool:
    """Whether it learns from rewards of what it draws."""
    return issubclass(registry.trainer(trainer).Config, Rewarded)


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


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_three_steps(trainer: str, name: str, made: Path, photos: Path, tmp_path: Path) -> None:
    """All of the adapter learns and nothing else moves; the file gives the same model, the same seed the same run."""
    one = lesson(trainer, name, made, photos)
    base, still = output(one.model), frozen(one.model)
    before = {key: value.clone() for key, value in one.adapter.state_dict().items()}
    ticks = one.run()
    assert [tick.step for tick in ticks] == [1, 2, 3]
    assert all(math.isfinite(value) for tick in ticks for value in tick.floats().values())
    assert any(not torch.equal(value, before[key]) for key, value in one.adapter.state_dict().items())
    assert [tick.messages[0][:19] for tick in ticks if tick.messages] == ["learning audit: all"]
    trained = output(one.model)
    assert not torch.equal(trained, base)
    with one.adapter.off():
        assert torch.equal(output(one.model), base)
    with one.adapter.off():
        now = frozen(one.model)
    assert still.keys() == now.keys()
    assert [key for key, value in now.items() if not torch.equal(value, still[key])] == []

    fresh = backbone(name, made)
    files.load(fresh, files.save(one.model, one.adapter, tmp_path / "adapter.safetensors"))  # type: ignore[arg-type]
    assert torch.equal(output(fresh), trained)

    if name == "embedded":  # the others say it in less time
        return
    again = lesson(trainer, name, made, photos)
    assert [tick.floats() for tick in again.run()] == [tick.floats() for tick in ticks]
    assert torch.equal(output(again.model), trained)


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_stopped_and_resumed_equals_straight(trainer: str, name: str, made: Path, photos: Path, tmp_path: Path) -> None:
    """Every number, message and warning, and at the end adapter, optimizer and all other state, bit for bit."""
    straight = lesson(trainer, name, made, photos, steps=5)
    ticks = straight.run()
    end = ticks[-1].state()
    first = lesson(trainer, name, made, photos, steps=5)
    head = first.run(stop=lambda: first.stream.position >= 2)
    assert len(head) < 5
    state, position = through_disk(head[-1].state(), tmp_path), first.stream.position
    torch.manual_seed(99)
    second = lesson(trainer, name, made, photos, steps=5)
    second.stream.position = position
    tail = second.run(start=head[-1].step, state=state)
    assert list(map(told, head + tail)) == list(map(told, ticks))
    assert differences(tail[-1].state(), end) == []
    assert torch.equal(output(second.model), output(straight.model))


def told(tick: Tick) -> tuple[Any, ...]:
    """What a run's events say of a step."""
    return tick.step, tick.numbers, tick.safe, tick.messages, tick.warnings


def harm(one: Lesson, what: str) -> str:
    """Make something not finite from the second batch on; the name it must be told by."""
    name, parameter = next(iter(one.adapter.named_parameters().items()))
    if what == "weight":
        parameter.data.view(-1)[0] = math.nan
    if what == "gradient":
        parameter.register_hook(lambda gradient: gradient * math.nan)
    if what == "embedding":
        embed = one.model.embed
        one.model.embed = lambda prompts: embed(prompts).map(lambda x: x * math.nan)  # type: ignore[method-assign]
    if what == "latents":
        at = one.stream.at

        def spoilt(position: int) -> Batch:
            batch = at(position)
            return replace(batch, latents=batch.latents.index_fill(0, torch.tensor([1]), math.inf))

        one.stream.at = spoilt  # type: ignore[method-assign]
        return f"latents of {one.stream.at(one.stream.position).ids[1]}"
    return {"weight": f"weight {name}", "gradient": f"gradient of {name}", "embedding": "embedding of '"}[what]


@pytest.mark.parametrize(
    ("trainer", "what"),
    [
        (trainer, what)
        for trainer in TRAINERS
        for what in ("latents", "embedding", "weight", "gradient")
        if what != "latents" or not rewarded(trainer)  # no pictures go in
    ],
)
def test_what_is_not_finite_is_refused_by_name(trainer: str, what: str, made: Path, photos: Path) -> None:
    """Before anything is changed: the state before the step is still there, to the last bit."""
    one = lesson(trainer, "toy", made, photos)
    ticks = one.ticks()
    good, position = next(ticks).state(), one.stream.position
    name = harm(one, what)
    with pytest.raises(NotFinite, match="step 2: .*first bad: ") as caught:
        next(ticks)
    assert f"first bad: {name}" in str(caught.value)
    assert one.stream.position == position
    if what != "weight":
        assert caught.value.last is not None
        assert differences(caught.value.last.state(), good) == []
