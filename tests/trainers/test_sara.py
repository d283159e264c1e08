"""The SaRA trainer in the loop: rates, the nuclear norm, the second phase, resuming in it, and cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from studio import loop
from studio.pipelines import backbone
from studio.pipelines.adapters import sara as kind
from studio.pipelines.adapters.sara_select import rate
from studio.pipelines.data import DataStream, Pictures
from studio.snapshot import State
from studio.tick import Tick
from studio.trainers import sara
from tests.states import differences, through_disk

QUANTILE = {"quantile": 0.3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, colour in (("a", "red"), ("b", "teal")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.png")
    return folder


class Lesson:
    """A training of the toy in the making."""

    def __init__(self, photos: Path, **settings: Any) -> None:
        chosen = {"steps": 8, "batch": 2, "adapter": QUANTILE, "data": Pictures(folder=photos, class_word="cat")}
        self.config = sara.Config(**{**chosen, **settings})
        self.model = backbone.load("toy")
        self.stream = DataStream(self.model, self.config.data.read(self.model), batch=2, seed=0)
        self.adapter = self.config.adapter.build(self.model)
        self.memory: dict[str, Any] = {}
        self.base = [vector.detach().clone() for vector in self.adapter.parameters()]

    def ticks(self, start: int = 0, state: State | None = None) -> Iterator[Tick]:
        losses = sara.losses(self.config, self.model, self.adapter, self.stream, self.memory)
        return loop.train(
            self.config, self.model, self.adapter, losses, self.memory, data=self.stream, start=start, state=state
        )

    def run(self) -> list[Tick]:
        return list(self.ticks())

    def moved(self) -> torch.Tensor:
        """Which entries are not what they were."""
        pairs = zip(self.adapter.places.values(), self.base, strict=True)
        return torch.cat([place.values().ne(base) for place, base in pairs])


def test_the_learning_rate_is_the_thresholds(photos: Path) -> None:
    one = Lesson(photos, adapter={"threshold": 2e-3}, schedule="constant")
    assert next(one.ticks()).numbers["lr"] == pytest.approx(4.9659e-4, rel=1e-4)
    assert next(Lesson(photos).ticks()).numbers["lr"] == rate(one.adapter.threshold * 100)
    assert next(Lesson(photos, lr=0.01).ticks()).numbers["lr"] == 0.01
    with pytest.raises(ValidationError, match="set lr = 1"):
        sara.Config(optimizer="prodigy")


def test_the_nuclear_norm_reaches_the_weights(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another weight of it gives other weights, and a large one a smaller norm; the toy's matrices count as large."""
    monkeypatch.setattr(kind, "LARGE", 8)
    monkeypatch.setattr(kind, "MANY", 1)
    found = {}
    for weight in (0.0, 5e-3, 10.0):
        one = Lesson(photos, lambda_rank=weight, lr=1e-2, clip=0.0)
        ticks = one.run()
        assert ("nuclear" in ticks[0].numbers) == (weight > 0)
        total = sum(
            torch.linalg.svdvals(place.matrix().detach()).sum().item()
            for place in one.adapter.places.values()
            if place.weight.ndim == 2
        )
        found[weight] = total, torch.cat([vector.detach() for vector in one.adapter.parameters()])
    assert not torch.equal(found[0.0][1], found[5e-3][1])
    assert found[10.0][0] < found[0.0][0]


def test_clipping_acts_on_what_learns(photos: Path) -> None:
    one = Lesson(photos, steps=1, optimizer="sgd", lr=1.0, clip=1e-3, weight_decay=0.0)
    assert next(one.ticks()).numbers["grad_norm"] > 1e-3
    pairs = zip(one.adapter.parameters(), one.base, strict=True)
    change = torch.cat([vector.detach() - base for vector, base in pairs])
    assert change.norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
def test_the_second_phase_holds_to_the_end(photos: Path, optimizer: str) -> None:
    """Outgrown entries keep their bits through weight decay, momentum and the moving average."""
    one = Lesson(photos, lr=3e-2, optimizer=optimizer, ema=0.9, weight_decay=0.5)
    values = []
    for tick in one.ticks():
        values.append(torch.cat([place.values().clone() for place in one.adapter.places.values()]))
        assert (one.adapter.numbers()["learning"] < 1) == (tick.step >= 4)
    kept = torch.cat([place.kept for place in one.adapter.places.values() if place.kept is not None])
    assert 0 < kept.sum() < len(kept)
    assert torch.equal(values[-1][~kept], values[3][~kept])
    assert (values[-1][kept] != values[3][kept]).any()
    assert (values[3].abs() < one.adapter.threshold).equal(kept)
    with tick.averaged():
        averaged = torch.cat([place.values() for place in one.adapter.places.values()])
    assert torch.equal(averaged[~kept], values[3][~kept])
    assert not torch.equal(averaged[kept], values[-1][kept])


def test_phases_that_never_begin_change_nothing(photos: Path) -> None:
    ends = [Lesson(photos, lr=3e-2, progressive=share) for share in (0.0, 1.0)]
    for one in ends:
        one.run()
    first, second = (torch.cat([vector.detach() for vector in one.adapter.parameters()]) for one in ends)
    assert torch.equal(first, second)
    assert ends[0].adapter.numbers()["learning"] == 1
    assert ends[0].moved().all()


def test_resuming_in_the_second_phase_is_exact(photos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lr": 3e-2, "ema": 0.9, "accumulate": 2}
    straight = Lesson(photos, **settings)
    end = straight.run()[-1].state()
    first = Lesson(photos, **settings)
    ticks = first.ticks()
    head = [next(ticks) for _ in range(5)][-1]
    state, position = through_disk(head.state(), tmp_path), first.stream.position
    second = Lesson(photos, **settings)
    second.stream.position = position
    tail = list(second.ticks(5, state))
    assert [tick.step for tick in tail] == [6, 7, 8]
    assert differences(tail[-1].state(), end) == []
    assert 0 < second.adapter.numbers()["learning"] < 1
