"""The loop: exact resuming, rules of generators, nothing stepped on that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio import loop, optimizers
from studio.loop import Tick
from studio.pipelines import backbone
from studio.pipelines.adapters import lora
from studio.pipelines.errors import NumericalError, StudioError, UsageError
from studio.pipelines.protocols import Backbone
from studio.snapshot import State
from studio.trainers.base import Loss, Settings
from tests.states import differences, through_disk

Trainer = Callable[[Backbone, lora.LoRA, dict[str, Any]], Iterator[Loss]]


def losses(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
    """A trainer in small: random latents from the global generator, a counter in memory."""
    cond = model.embed(["a cat", "a dog"])
    while True:
        memory["count"] = memory.get("count", 0) + 1
        noisy = model.noise(torch.randn(2, *model.latent_shape(8, 8)).to(model.device))
        error = (model.predict(noisy.x, noisy.t, cond) - noisy.target).square().mean()
        yield Loss(error, {"error": error, "count": memory["count"]})


def settings(**changes: Any) -> Settings:
    return Settings(**{"steps": 6, "lr": 1e-2, "precision": "no", **changes})


class Bench:
    """A toy model with an adapter and a trainer, ready to run."""

    def __init__(
        self, trainer: Trainer = losses, adapter: dict[str, Any] | None = None, device: str = "cpu", **changes: Any
    ) -> None:
        torch.manual_seed(0)
        self.model = backbone.load("toy", device)
        self.adapter = lora.Config(**{"rank": 2, **(adapter or {})}).build(self.model)
        self.settings, self.memory = settings(**changes), {}  # type: ignore[var-annotated]
        self.losses = trainer(self.model, self.adapter, self.memory)

    def ticks(self, **where: Any) -> Iterator[Tick]:
        return loop.train(self.settings, self.model, self.adapter, self.losses, self.memory, **where)

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.adapter.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "cosine", "warmup": 2},
        {"ema": 0.9, "accumulate": 2},
        {"optimizer": "sgd", "schedule": "linear"},
        {"optimizer": "adafactor"},
        {"adapter": {"dropout": 0.5, "dora": True}},
        {"precision": "bf16"},
    ],
)
def test_stopped_and_resumed_equals_straight_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    straight = Bench(**changes)
    ticks = list(straight.ticks())
    numbers, end = [tick.floats() for tick in ticks], ticks[-1].state()
    first = Bench(**changes)
    head = list(islice(first.ticks(), 3))
    state = through_disk(head[-1].state(), tmp_path)
    torch.manual_seed(99)
    second = Bench(**changes)
    tail = list(second.ticks(start=3, state=state))
    assert [tick.floats() for tick in [*head, *tail]] == numbers
    assert differences(tail[-1].state(), end) == []
    assert second.memory == straight.memory


@pytest.mark.gpu
def test_on_a_gpu_resumed_equals_straight_within_the_tolerance(tmp_path: Path) -> None:
    straight = Bench(device="cuda", deterministic=True)
    numbers = [tick.numbers for tick in straight.ticks()]
    first = Bench(device="cuda", deterministic=True)
    head = list(islice(first.ticks(), 3))
    tail = Bench(device="cuda", deterministic=True).ticks(start=3, state=through_disk(head[-1].state(), tmp_path))
    assert [tick.numbers for tick in [*head, *tail]] == [pytest.approx(one, rel=1e-4) for one in numbers]


def test_the_average_follows_its_formula_and_is_put_away_again() -> None:
    bench = Bench(ema=0.5)
    shadow, decay = bench.weights(), 0.5
    for tick in bench.ticks():
        now = bench.weights()
        # diffusers warms the decay up: (1 + n) / (10 + n) after n steps, at most the setting
        n = tick.step - 1
        rate = 1 - (min((1 + n) / (10 + n), decay) if n else 0.0)
        shadow = {key: shadow[key] + rate * (now[key] - shadow[key]) for key in shadow}
        with tick.averaged():
            for key, value in bench.weights().items():
                torch.testing.assert_close(value, shadow[key])
        assert same(bench.weights(), now)


def test_resting_is_the_tick_again(tmp_path: Path) -> None:
    bench = Bench(ema=0.9)
    *_, last = bench.ticks()
    with last.averaged():
        averaged = bench.weights()
    again = Bench(ema=0.9)
    state = through_disk(last.state(), tmp_path)
    tick = loop.resting(again.settings, again.model, again.adapter, again.memory, state, last.step)
    assert tick.step == 6
    assert same(again.weights(), bench.weights())
    with tick.averaged():
        assert same(again.weights(), averaged)


def test_accumulated_batches_of_one_equal_one_batch() -> None:
    def split(parts: int) -> Trainer:
        def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
            generator = torch.Generator().manual_seed(5)
            while True:
                noisy = model.noise(torch.randn(4, *model.latent_shape(8, 8), generator=generator), generator)
                cond = model.embed(["a", "b", "c", "d"])
                for rows in torch.arange(4).chunk(parts):
                    error = model.predict(noisy.x[rows], noisy.t[rows], cond[rows]) - noisy.target[rows]
                    yield Loss(error.square().mean(), {"error": error.square().mean()})

        return trainer

    whole, ones = Bench(split(1), optimizer="sgd"), Bench(split(4), optimizer="sgd", accumulate=4)
    together, apart = list(whole.ticks()), list(ones.ticks())
    for left, right in zip(together, apart, strict=True):
        assert left.floats() == pytest.approx(right.floats(), abs=1e-6)
    for key, value in whole.weights().items():
        torch.testing.assert_close(value, ones.weights()[key], rtol=1e-6, atol=1e-6)


def test_clipping_bounds_the_step() -> None:
    free, clipped = Bench(optimizer="sgd", weight_decay=0, steps=1), None
    start = free.weights()
    (tick,) = free.ticks()
    norm = tick.floats()["grad_norm"]
    clipped = Bench(optimizer="sgd", weight_decay=0, steps=1, clip=norm / 2)
    list(clipped.ticks())
    for key, value in clipped.weights().items():
        torch.testing.assert_close(value - start[key], (free.weights()[key] - start[key]) / 2)


def within(context: str) -> Trainer:
    def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
        good = losses(model, adapter, memory)
        yield next(good)
        loss = next(good)
        with torch.no_grad() if context == "no_grad" else adapter.off():
            yield loss

    return trainer


@pytest.mark.parametrize("context", ["no_grad", "off"])
def test_a_yield_inside_a_context_names_the_trainer_and_leaks_nothing(context: str) -> None:
    bench = Bench(within(context))
    with pytest.raises(StudioError, match=rf"'test_loop', step 2: a `yield` inside .*{context}"):
        list(bench.ticks())
    assert torch.is_grad_enabled()
    assert bench.adapter.enabled


def ends(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
    yield next(losses(model, adapter, memory))


def vectors(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
    yield Loss(torch.ones(3, requires_grad=True))


def constants(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
    yield Loss(torch.ones(()))


def beside(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
    yield Loss(torch.ones((), requires_grad=True) * 2)


@pytest.mark.parametrize(
    ("trainer", "says"),
    [
        (ends, "no loss for step 2"),
        (vectors, r"shape \(3,\)"),
        (constants, "does not depend"),
        (beside, "no gradient reached"),
    ],
)
def test_a_generator_that_breaks_a_rule_is_told_which(trainer: Trainer, says: str) -> None:
    with pytest.raises(StudioError, match=says):
        list(Bench(trainer).ticks())


def broken(where: str) -> Trainer:
    def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
        good = losses(model, adapter, memory)
        yield next(good)
        loss = next(good)
        if where == "gradient":  # finite value, infinite slope
            zero = (adapter.parameters()[0] * 0).sum()
            yield Loss(loss.value + zero.abs().sqrt())
        yield Loss(loss.value * float(where), {"error": loss.value * float(where)})

    return trainer


@pytest.mark.parametrize(
    ("where", "says"),
    [("nan", "number 'error'"), ("inf", "number 'error'"), ("gradient", "gradient of unet")],
)
def test_nothing_steps_on_what_is_not_finite(where: str, says: str) -> None:
    bench = Bench(broken(where))
    ticks = bench.ticks()
    next(ticks)
    before = bench.weights()
    with pytest.raises(NumericalError, match=rf"step 2: .*first bad: {says}") as caught:
        next(ticks)
    assert caught.value.exit_code == 5
    assert same(bench.weights(), before)


def test_half_precision_is_on_inside_the_trainer_only_and_keeps_the_graph() -> None:
    seen = []

    def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
        good = losses(model, adapter, memory)
        while True:
            seen.append(torch.is_autocast_enabled("cpu"))
            with torch.no_grad():  # a rollout: its casts of the weights must not be used with gradients later
                next(good)
            yield next(good)

    bench = Bench(trainer, precision="bf16", steps=2)
    before = bench.weights()
    for tick in bench.ticks():
        assert not torch.is_autocast_enabled("cpu")
        assert tick.floats()["grad_norm"] > 0
    assert seen == [True, True]
    assert not same(bench.weights(), before)
    assert all(value.dtype == torch.float32 for value in bench.weights().values())


def test_stopping_waits_for_a_safe_step() -> None:
    def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
        for number, loss in enumerate(losses(model, adapter, memory), 1):
            yield Loss(loss.value, safe=number % 4 == 0)

    ticks = list(Bench(trainer).ticks(stop=lambda: True))
    assert [tick.safe for tick in ticks] == [False, False, False, True]


def test_dropout_is_off_between_steps() -> None:
    bench = Bench(adapter={"dropout": 0.5})
    for _ in bench.ticks():
        x, t, cond = torch.ones(1, 2, 4, 4), torch.tensor([5]), bench.model.embed(["a"])
        assert torch.equal(bench.model.predict(x, t, cond), bench.model.predict(x, t, cond))


def test_the_last_step_is_the_settings_last_step() -> None:
    assert [tick.step for tick in Bench(steps=3).ticks()] == [1, 2, 3]
    assert [tick.step for tick in Bench(steps=3).ticks(start=2)] == [3]


@pytest.mark.parametrize("name", ["adamw", "adafactor", "sgd"])
def test_optimizers_learn(name: str) -> None:
    bench = Bench(optimizer=name, steps=2)
    before = bench.weights()
    list(bench.ticks())
    assert not same(bench.weights(), before)


@pytest.mark.parametrize(
    ("name", "package"),
    [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt"), ("schedulefree", "schedulefree")],
)
def test_a_missing_extra_says_which_install_brings_it(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.setitem(__import__("sys").modules, f"{package}.optim", None)
    with pytest.raises(UsageError, match=rf"'{name}' needs: pip install .*personalization-studio\[optimizers\]"):
        Bench(optimizer=name, lr=1.0).ticks()


def test_prodigy() -> None:
    pytest.importorskip("prodigyopt")
    with pytest.warns(UserWarning, match=r"lr = 1\.0"):
        Bench(optimizer="prodigy", lr=1e-4).ticks()
    bench = Bench(optimizer="prodigy", lr=1.0)
    before = bench.weights()
    list(bench.ticks())
    assert not same(bench.weights(), before)


def test_schedulefree_exports_its_average() -> None:
    pytest.importorskip("schedulefree")
    bench = Bench(optimizer="schedulefree")
    for tick in bench.ticks():
        training = bench.weights()
        with tick.averaged():
            averaged = bench.weights()
        for key, value in bench.weights().items():
            torch.testing.assert_close(value, training[key])
    assert not same(training, averaged)
    with pytest.raises(UsageError, match="constant"):
        Bench(optimizer="schedulefree", schedule="cosine").ticks()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": "adamv"}, "did you mean 'adamw'"),
        ({"schedule": "cosinus"}, "did you mean 'cosine'"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
    ],
)
def test_unknown_words_name_the_nearest_before_anything_runs(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Bench(**changes).ticks()


@pytest.mark.parametrize("schedule", optimizers.SCHEDULES)
def test_every_schedule_warms_up_and_none_drops_the_warm_up(schedule: str) -> None:
    rates = [tick.floats()["lr"] for tick in Bench(schedule=schedule, warmup=3, steps=8).ticks()]
    if schedule == "constant":
        assert rates[3:] == [1e-2] * 5
    assert rates[:4] == pytest.approx([0.0, 1e-2 / 3, 2e-2 / 3, 1e-2])


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    *_, last = Bench(optimizer="sgd").ticks()
    with pytest.raises((UsageError, StudioError), match="adamw"):
        Bench(optimizer="adamw").ticks(start=6, state=through_disk(last.state(), tmp_path))


def test_state_goes_through_files_unchanged(tmp_path: Path) -> None:
    state = State()
    tree = {
        "a": [torch.arange(3), (1, 2.5, None, "x", True)],
        7: {"deep": torch.zeros(2, dtype=torch.bfloat16)},
    }
    state.put("tree", tree)
    back = through_disk(state, tmp_path).get("tree")
    assert torch.equal(back["a"][0], tree["a"][0])
    assert back["a"][1] == tree["a"][1]
    assert back[7]["deep"].dtype == torch.bfloat16
    with pytest.raises(TypeError, match=r"tree\.bad"):
        state.put("tree", {"bad": object()})
