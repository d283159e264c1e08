"""The learning audit: what should learn does, or the run stops and names it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from studio import audit, show
from studio.audit import IDLE, WINDOW
from studio.events import Event
from studio.loop import Tick
from studio.pipelines.adapters import lora
from studio.pipelines.errors import NumericalError, StudioError
from studio.pipelines.protocols import Backbone
from studio.store import Run
from tests.states import through_disk
from tests.test_loop import Bench, losses

DEAD = "unet.attn2.to_v.lora_A.weight"


def silence(bench: Bench, *names: str) -> Bench:
    """The bench with the gradients of some tensors made zero."""
    for name in names:
        bench.adapter.named_parameters()[name].register_hook(torch.zeros_like)
    return bench


def messages(ticks: list[Tick]) -> list[tuple[str, ...]]:
    return [tick.messages for tick in ticks]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd"},
        {"optimizer": "adafactor"},
        {"precision": "bf16"},
        {"adapter": {"dora": True, "dropout": 0.5}},
        {"accumulate": 2, "ema": 0.9},
    ],
)
def test_lora_passes_though_half_of_it_gets_no_gradient_at_first(changes: dict[str, Any]) -> None:
    bench = Bench(**changes)
    said = messages(list(bench.ticks()))
    passed = (f"learning audit: all {len(bench.adapter.parameters())} tensors got a gradient and moved",)
    assert said == [(), (), passed, (), (), ()]
    assert WINDOW == 3


def test_a_warm_up_from_zero_only_takes_longer() -> None:
    said = messages(list(Bench(warmup=2, steps=6).ticks()))
    assert [bool(one) for one in said] == [False, False, False, True, False, False]


def test_a_tensor_without_gradient_is_named_though_weight_decay_moves_it() -> None:
    bench = silence(Bench(), DEAD)
    start = bench.weights()[DEAD]
    with pytest.raises(NumericalError, match=rf"step 3: 1 of 16 .* {DEAD} got no gradient: .*adapter\.targets") as told:
        list(bench.ticks())
    assert told.value.exit_code == 5
    assert not torch.equal(bench.weights()[DEAD], start)


def test_many_are_counted_and_three_named() -> None:
    bench = Bench()
    names = [name for name in bench.adapter.named_parameters() if "attn2" in name]
    with pytest.raises(NumericalError, match=rf"8 of 16 .*{names[2]} and 5 more got no gradient"):
        list(silence(bench, *names).ticks())


def test_what_gets_a_gradient_but_does_not_move_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def groups(lr: float) -> list[dict[str, Any]]:
        named = bench.adapter.named_parameters()
        rest = [p for name, p in named.items() if name != DEAD]
        return [{"params": rest, "lr": lr}, {"params": [named[DEAD]], "lr": 0.0}]

    monkeypatch.setattr(bench.adapter, "groups", groups)
    with pytest.raises(NumericalError, match=rf"1 of 16 .*{DEAD} did not move: .*larger lr"):
        list(bench.ticks())


@pytest.mark.parametrize("who", ["adapter", "trainer"])
def test_a_declared_exception_is_let_through_and_said(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = silence(Bench(own), DEAD)
    holder = bench.adapter if who == "adapter" else sys.modules[__name__]
    patch = type(holder) if who == "adapter" else holder
    monkeypatch.setattr(patch, "audit_exceptions", {"unet.attn2.to_v.*": "it is asleep"}, raising=False)
    assert messages(list(bench.ticks()))[2] == (
        "learning audit: all 14 tensors got a gradient and moved; 2 need not: it is asleep",
    )
    monkeypatch.setattr(patch, "audit_exceptions", {"unet.attn2.to_v.*": ""})
    with pytest.raises(StudioError, match="says no reason"):
        bench.ticks()


def own(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Any]:
    """A trainer that lives in this module."""
    yield from losses(model, adapter, memory)


def rewarded(after: int) -> Any:
    """A trainer whose reward says nothing for some steps."""

    def trainer(model: Backbone, adapter: lora.LoRA, memory: dict[str, Any]) -> Iterator[Any]:
        for number, loss in enumerate(losses(model, adapter, memory)):
            yield type(loss)(loss.value * (number >= after))

    return trainer


def test_steps_without_any_gradient_do_not_count_but_end() -> None:
    said = messages(list(Bench(rewarded(5), steps=9, weight_decay=0).ticks()))
    assert [step for step, one in enumerate(said, 1) if one] == [8]
    with pytest.raises(NumericalError, match=rf"step {IDLE}: in {IDLE} steps no gradient"):
        list(Bench(rewarded(99), steps=40).ticks())


def test_a_run_too_short_to_tell_is_not_judged() -> None:
    assert messages(list(silence(Bench(steps=2), DEAD).ticks())) == [(), ()]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
@pytest.mark.parametrize("dead", [True, False])
def test_a_restart_changes_no_verdict(cut: int, dead: bool, tmp_path: Path) -> None:
    def run(bench: Bench, **where: Any) -> list[str]:
        said = []
        try:
            for tick in silence(bench, *([DEAD] if dead else [])).ticks(**where):
                said += [f"{tick.step} {message}" for message in tick.messages]
        except NumericalError as problem:
            said.append(str(problem))
        return said

    first = Bench()
    head = list(islice(silence(first, *([DEAD] if dead else [])).ticks(), min(cut, 2) if dead else cut))
    early = [f"{tick.step} {message}" for tick in head for message in tick.messages]
    late = run(Bench(), start=head[-1].step, state=through_disk(head[-1].state(), tmp_path))
    assert early + late == run(Bench())


def test_the_inventory_counts_what_trains(tmp_path: Path) -> None:
    bench = Bench()
    found = audit.inventory(bench.adapter)
    size = sum(p.numel() for p in bench.adapter.parameters())
    assert found == {"unet": {"modules": 8, "tensors": 16, "parameters": size, "dtype": "float32"}}
    (line,) = audit.lines(found)
    assert line == f"unet: {size:,} parameters in 16 tensors of 8 modules, float32"
    run = Run(tmp_path)
    assert show.learns(run) == []
    run.log(Event("train", event="audit", fields={"parts": found}))
    assert show.learns(run) == [line]


def test_the_excuse_of_an_mmdits_last_block_is_true(tmp_path: Path) -> None:
    from tests.models import backbone

    model = backbone("tiny-sd3", tmp_path)
    adapter = lora.Config(rank=2).build(model)
    excused: Mapping[str, str] = adapter.audit_exceptions
    assert list(excused) == ["transformer.transformer_blocks.1.attn.add_q_proj.*"]
    noisy = model.noise(torch.randn(1, *model.latent_shape(32, 32)))
    torch.nn.init.ones_(adapter.named_parameters()["transformer.transformer_blocks.1.attn.add_q_proj.lora_B.weight"])
    model.predict(noisy.x, noisy.t, model.embed(["a cat"])).square().sum().backward()
    still = audit.Audit(adapter.named_parameters(), excused).excused
    assert len(still) == 2
    assert all(not adapter.named_parameters()[name].grad.any() for name in still)  # type: ignore[union-attr]
