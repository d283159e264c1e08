"""What a loss may ask of the loop: an idle step, clipping in its own units, a word after the step, a fresh start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from studio import loop
from studio.loop import Tick
from studio.pipelines import backbone
from studio.pipelines.adapters import lora
from studio.pipelines.protocols import Backbone
from studio.trainers.base import Loss, Settings, Turn


def errors(model: Backbone, seed: int = 0) -> Iterator[Loss]:
    """Squared errors on latents of a seeded generator of its own."""
    generator, cond = torch.Generator().manual_seed(seed), model.embed(["a cat"])
    while True:
        noisy = model.noise(torch.randn(1, *model.latent_shape(8, 8), generator=generator), generator)
        yield Loss((model.predict(noisy.x, noisy.t, cond) - noisy.target).square().mean())


class Bench:
    """A toy model, and losses changed by number (from 0)."""

    def __init__(
        self, changes: dict[int, dict[str, Any]], always: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        torch.manual_seed(0)
        self.model = backbone.load("toy")
        self.adapter = lora.Config(rank=2).build(self.model)
        self.settings = Settings(**{"steps": 6, "lr": 1e-2, "precision": "no", **settings})
        self.start = {name: tensor.clone() for name, tensor in self.adapter.state_dict().items()}
        self.told: list[dict[str, float]] = []

        def trainer() -> Iterator[Loss]:
            for number, loss in enumerate(errors(self.model)):
                mine = {**(always or {}), **changes.get(number, {})}
                yield replace(loss, value=loss.value * mine.pop("times", 1.0), **mine)

        self.losses = trainer()

    def ticks(self) -> Iterator[Tick]:
        return loop.train(self.settings, self.model, self.adapter, self.losses, {})

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.adapter.state_dict().items()}

    def moments(self, tick: Tick) -> dict[str, Tensor]:
        return tick.state().tensors.get("optimizer", {})


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def needed(optimizer: str) -> None:
    """Skips where the package of an optional optimizer is not installed."""
    if package := {"prodigy": "prodigyopt", "schedulefree": "schedulefree"}.get(optimizer):
        pytest.importorskip(package)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor", "prodigy"])
def test_an_idle_step_leaves_weights_and_moments_and_the_audit_waits(optimizer: str) -> None:
    needed(optimizer)
    idle = torch.ones(())
    lr = 1.0 if optimizer == "prodigy" else 1e-2
    bench = Bench({0: {"idle": idle}, 3: {"idle": idle}}, {"idle": 0.0}, optimizer=optimizer, lr=lr)
    ticks, seen = [], [bench.start]
    for tick in bench.ticks():
        ticks.append((tick, bench.moments(tick)))
        seen.append(bench.weights())
    changed = [not same(a, b) for a, b in zip(seen, seen[1:], strict=False)]
    assert changed == [False, True, True, False, True, True]
    assert same(ticks[2][1], ticks[3][1])
    assert [tick.numbers["idle"] for tick, _ in ticks] == [1, 0, 0, 1, 0, 0]
    assert [tick.step for tick, _ in ticks if tick.messages] == [5]  # the third step that could move something


def test_a_step_with_one_loss_that_is_not_idle_is_taken() -> None:
    bench = Bench({0: {"idle": 1.0}, 2: {"idle": 1.0}, 3: {"idle": 1.0}}, {"idle": 0.0}, accumulate=2, steps=2)
    ticks = bench.ticks()
    assert next(ticks).numbers["idle"] == 0.5
    first = bench.weights()
    assert not same(first, bench.start)
    assert next(ticks).numbers["idle"] == 1
    assert same(bench.weights(), first)


def test_the_schedule_goes_on_through_idle_steps() -> None:
    rates = [
        [tick.numbers["lr"] for tick in Bench({2: {"idle": 1.0}}, always, schedule="cosine").ticks()]
        for always in ({}, {"idle": 0.0})
    ]
    assert rates[0] == rates[1]


def test_clip_counts_in_the_losses_own_units() -> None:
    """A loss 100 times as steep is clipped where the plain one is, and then gives 100 times its gradient."""
    plain = Bench({}, optimizer="sgd", clip=0.01, steps=1, lr=1e-4, weight_decay=0.0)
    steep = Bench(
        {}, {"times": 128.0, "steepness": 128.0}, optimizer="sgd", clip=0.01, steps=1, lr=1e-4, weight_decay=0.0
    )
    norms = [list(bench.ticks())[0].numbers["grad_norm"] for bench in (plain, steep)]
    assert norms[1] == pytest.approx(128 * norms[0], rel=1e-5)
    moves = [{name: now - bench.start[name] for name, now in bench.weights().items()} for bench in (plain, steep)]
    for name, move in moves[0].items():
        torch.testing.assert_close(moves[1][name], 128 * move, rtol=1e-2, atol=1e-7)


def test_what_is_said_after_a_step_is_in_its_tick_and_knows_its_numbers() -> None:
    told: list[Mapping[str, float]] = []

    def then(numbers: Mapping[str, float]) -> Turn:
        told.append(numbers)
        return Turn(("said",), ("warned", ""))

    ticks = list(Bench({1: {"then": then}}, accumulate=2, steps=1).ticks())
    assert (ticks[0].messages, ticks[0].warnings) == (("said",), ("warned",))
    assert told == [ticks[0].numbers]


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"optimizer": "sgd"}, {"optimizer": "schedulefree"}])
def test_after_a_fresh_start_nothing_of_what_was_before_is_left(changes: dict[str, Any]) -> None:
    """The steps after it are those of a run that begins there."""
    needed(changes.get("optimizer", ""))

    def again(numbers: Mapping[str, float]) -> Turn:
        bench.adapter.load_state_dict(bench.start)
        return Turn(fresh=True)

    bench = Bench({2: {"then": again}}, **changes)
    ticks = list(bench.ticks())
    alone = Bench({}, **changes)
    for _ in range(3):
        next(alone.losses)
    fresh = list(
        loop.train(alone.settings.model_copy(update={"steps": 3}), alone.model, alone.adapter, alone.losses, {})
    )
    assert [t.numbers for t in ticks[3:]] == [t.numbers for t in fresh]
    assert same(bench.weights(), alone.weights())
    with ticks[-1].averaged(), fresh[-1].averaged():
        assert same(bench.weights(), alone.weights())
    assert same(bench.moments(ticks[-1]), alone.moments(fresh[-1]))
    assert math.isfinite(ticks[-1].numbers["loss"])


def test_numbers_said_after_a_step_are_in_its_tick_and_a_reason_to_stop_ends_the_run() -> None:
    def then(numbers: Mapping[str, float]) -> Turn:
        return Turn(numbers={"diversity": 0.5}, stop="it got worse")

    ticks = list(Bench({2: {"then": then}}).ticks())
    assert [tick.stop for tick in ticks] == ["", "", "it got worse"]
    assert [tick.numbers.get("diversity") for tick in ticks] == [None, None, 0.5]
