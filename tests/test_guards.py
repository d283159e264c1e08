"""Guards: the first thing that is not finite is named, and what was good before it is still there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from studio import guards
from studio.guards import NotFinite
from studio.loop import Tick
from studio.pipelines.adapters import lora
from studio.pipelines.protocols import Backbone
from studio.spikes import LEAST
from studio.trainers.base import Loss, Settings
from tests.states import differences, through_disk
from tests.test_loop import Bench, losses, same

NAME = "unet.attn1.to_k.lora_A.weight"


def once(step: int, factor: float) -> Any:
    """A trainer whose loss is multiplied in one step, the first time it is taken; its count is in memory."""
    taken: list[int] = []

    def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
        for loss in losses(model, adapter, memory):
            hit = memory["count"] == step and not taken
            taken.extend([step] if hit else [])
            yield Loss(loss.value * factor, loss.numbers) if hit else loss

    return trainer


def refused(ticks: Iterator[Tick]) -> tuple[list[Tick], NotFinite]:
    """The ticks up to the refusal, and the refusal."""
    taken: list[Tick] = []
    try:
        for tick in ticks:
            taken.append(tick)
    except NotFinite as problem:
        return taken, problem
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "schedule": "cosine"}, {"accumulate": 2}])
def test_a_refused_step_leaves_the_state_before_it_to_the_last_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    """Saved and taken up again, the run is the one that was never disturbed."""
    count = changes.get("accumulate", 1)
    straight = Bench(**changes)
    numbers = [tick.numbers for tick in straight.ticks()]
    bench = Bench(once(4 * count, math.nan), **changes)
    head = list(islice(ticks := bench.ticks(), 3))
    good = head[-1].state()
    _, problem = refused(ticks)
    assert problem.last is not None
    assert problem.last.step == 3
    assert all(p.grad is None for p in bench.adapter.parameters())
    state = problem.last.state()
    assert differences(state, good) == []
    again = Bench(**changes)
    tail = list(again.ticks(start=3, state=through_disk(state, tmp_path)))
    assert [tick.numbers for tick in [*head, *tail]] == numbers
    assert same(again.weights(), straight.weights())


def harm(bench: Bench, what: str) -> None:
    """Make something not finite."""
    parameter = bench.adapter.named_parameters()[NAME]
    with torch.no_grad():
        if what == "weight":
            parameter[0, 0] = math.nan
        if what == "frozen":
            bench.model.net.get_parameter("ff.net.2.weight")[0, 0] = math.inf
    if what == "gradient":
        parameter.register_hook(lambda gradient: gradient * math.nan)


@pytest.mark.parametrize(
    ("what", "says", "keeps"),
    [
        ("weight", f"first bad: weight {NAME}; the newest checkpoint is from before", False),
        ("frozen", "first bad: frozen weight unet.ff.net.2.weight; nothing was changed by this step: .*files", True),
        ("gradient", f"first bad: gradient of {NAME}; nothing was changed by this step: .*lr = 0.001", True),
    ],
)
def test_the_first_bad_tensor_is_named(what: str, says: str, keeps: bool) -> None:
    bench = Bench()
    list(islice(ticks := bench.ticks(), 2))
    harm(bench, what)
    _, problem = refused(ticks)
    assert re.search(f"step 3: .*{says}", str(problem)), problem
    assert problem.exit_code == 5
    assert (problem.last is not None) is keeps


def test_a_number_to_plot_is_checked_too() -> None:
    def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
        for loss in losses(model, adapter, memory):
            yield Loss(loss.value, {"reward": torch.tensor(math.nan)})

    with pytest.raises(NotFinite, match="first bad: number 'reward'"):
        list(Bench(trainer).ticks())


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "sgd", "ema": 0.9}, {"optimizer": "adafactor"}, {"schedule": "cosine"}]
)
@pytest.mark.parametrize("step", [1, 4])
def test_a_step_that_spoils_a_weight_is_taken_back_to_the_last_bit(
    changes: dict[str, Any], step: int, tmp_path: Path
) -> None:
    """Saved and taken up again, the run is the one that was never disturbed."""
    straight = Bench(**changes)
    numbers = [tick.numbers for tick in straight.ticks()]
    bench = Bench(**changes)
    began = bench.weights()
    head = list(islice(ticks := bench.ticks(), step - 1))
    good = head[-1].state() if head else None

    def overflow(*_: Any) -> None:
        bench.adapter.named_parameters()[NAME].data[0, 0] = math.inf

    hook = register_optimizer_step_post_hook(overflow)
    _, problem = refused(ticks)
    hook.remove()
    assert f"step {step}: the optimizer's step was not finite and was taken back, first bad: weight {NAME}" in str(
        problem
    )
    if good is None:
        assert problem.last is None
        assert same(bench.weights(), began)
        return
    assert problem.last is not None
    state = problem.last.state()
    assert differences(state, good) == []
    again = Bench(**changes)
    tail = list(again.ticks(start=step - 1, state=through_disk(state, tmp_path)))
    assert [tick.numbers for tick in [*head, *tail]] == numbers


def test_where_too_much_would_be_copied_the_newest_checkpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.undo.LIMIT", 0)
    bench = Bench()
    list(islice(ticks := bench.ticks(), 2))
    hook = register_optimizer_step_post_hook(lambda *_: harm(bench, "weight"))
    _, problem = refused(ticks)
    hook.remove()
    assert "the newest checkpoint is from before" in str(problem)
    assert problem.last is None


@pytest.mark.parametrize("where", ["adapter", "optimizer", "ema"])
def test_no_checkpoint_is_made_of_what_is_not_finite(where: str) -> None:
    bench = Bench(ema=0.9)
    tick = next(bench.ticks())
    group = tick.state().tensors[where]
    engine = tick.state.__self__  # type: ignore[attr-defined]
    live: dict[str, Tensor] = {
        "adapter": bench.adapter.parameters()[0].data,
        "optimizer": engine.optimizer.state[bench.adapter.parameters()[0]]["exp_avg_sq"],
        "ema": engine.ema.shadow_params[0],
    }
    assert group
    live[where][0, 0] = math.inf
    with pytest.raises(NotFinite, match=f"no checkpoint was written: {where}"):
        tick.state()


def test_where_the_loss_had_jumped_before_the_last_state_is_not_worth_keeping() -> None:
    def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
        factors = {LEAST + 5: 1e4, LEAST + 8: math.nan}
        for number, loss in enumerate(losses(model, adapter, memory), 1):
            yield Loss(loss.value * factors.get(number, 1.0))

    taken, problem = refused(Bench(trainer, steps=60, lr=1e-4).ticks())
    assert [tick.step for tick in taken if any("the loss jumped" in text for text in tick.warnings)] == [LEAST + 5]
    assert f"loss or weights had jumped at step {LEAST + 5}, go on from a checkpoint before it" in str(problem)
    assert problem.last is None


def test_after_an_unsafe_loss_there_is_nothing_to_save() -> None:
    def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Loss]:
        for number, loss in enumerate(losses(model, adapter, memory), 1):
            yield Loss(loss.value * (math.nan if number == 3 else 1.0), safe=False)

    assert refused(Bench(trainer).ticks())[1].last is None


@pytest.mark.parametrize(
    ("kind", "mixed", "frozen", "says"),
    [
        ("latents", "fp16", torch.float16, "autoencoder overflowed in float16: use a float32 one, precision = 'no'"),
        ("latents", "no", torch.float32, "look at that picture"),
        ("embedding", "bf16", torch.bfloat16, "text encoder overflowed in bfloat16"),
        ("embedding", "no", torch.float32, "files are damaged"),
        ("frozen", "fp16", torch.float16, "precision = 'bf16'"),
        ("loss", "fp16", torch.float16, "precision = 'bf16'"),
        ("loss", "no", torch.float32, "a smaller learning rate, lr = 0.0002"),
        ("gradient", "bf16", torch.bfloat16, "lr = 0.0002 and clip = 1, or precision = 'no'"),
    ],
)
def test_what_to_try_fits_the_cause(kind: str, mixed: str, frozen: torch.dtype, says: str) -> None:
    assert says in guards.advice(kind, Settings(lr=2e-3, clip=0.0), mixed, frozen)
