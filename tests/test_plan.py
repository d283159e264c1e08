"""The plan of a run: exact where it counts tensors, within 20 % of what a process takes."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from studio import bench_plan, loop, memory, optimizers, plan, plan_time, registry
from studio.commands import plan as command
from studio.config import RunConfig, make
from studio.events import Event
from studio.journal import Journal
from studio.peaks import Peaks
from studio.pipelines import backbone, twin
from studio.pipelines.backbone import Frozen
from studio.pipelines.errors import MemoryShortage
from studio.plan_live import Live, nbytes
from studio.plan_rehearsal import Always, Rehearsal
from studio.plan_weights import STATE, Weights
from studio.trainers.base import Settings
from tests.models import tiny_sd

CPU = torch.device("cpu")


def toy(**settings: Any) -> RunConfig:
    return make("dreambooth", flags={"model": "toy", "settings": {"precision": "no", **settings}})


def loaded(config: RunConfig) -> Any:
    """A model with its adapter, as a run has it."""
    model = backbone.load(config.model)
    config.settings.adapter.build(model)
    return model


@pytest.mark.parametrize("settings", [{"batch": 1}, {"batch": 6}, {"batch": 2, "accumulate": 3}], ids=str)
def test_a_rehearsal_counts_what_the_true_loss_keeps(settings: dict[str, Any]) -> None:
    config = toy(**settings)
    model = loaded(config)
    rehearsal = Rehearsal(config, model, CPU)
    predicted, flops = rehearsal.train()
    rehearsal.twin, rehearsal.text = model, None  # the same acts, now on real tensors
    with Live(twin.tensors(model)) as live:
        rehearsal.losses(min(config.settings.accumulate, 2))
    assert not rehearsal.notes
    assert flops > 0
    assert predicted == live.peak


def test_a_loss_that_fake_tensors_cannot_follow_is_replaced_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = Rehearsal(toy(), loaded(toy()), CPU)
    monkeypatch.setattr(rehearsal, "losses", lambda count: float(torch.zeros(()).add(1)))
    assert rehearsal.train()[0] > 0
    assert "could not be rehearsed" in rehearsal.notes[0]


def test_planning_leaves_model_and_randomness_alone() -> None:
    config = toy()
    model = loaded(config)
    before, state = model.fingerprint(), torch.get_rng_state()
    plan.of(config, model)
    assert model.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.adapter.parameters())


def test_a_model_is_planned_from_its_configs_alone(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "model")
    config = make("dreambooth", flags={"model": str(folder), "settings": {"precision": "no"}})
    real = loaded(config)
    hollow = twin.hollow(str(folder), torch.float32)
    assert {tensor.device.type for tensor in twin.tensors(hollow)} == {"meta"}
    config.settings.adapter.build(hollow)
    assert isinstance(hollow, Frozen)
    shapes = [[(tensor.shape, tensor.dtype) for tensor in twin.tensors(one)] for one in (real, hollow)]
    assert shapes[0] == shapes[1]
    one, two = (Rehearsal(config, model, CPU) for model in (real, hollow))
    assert one.train() == two.train()
    assert one.cache() == two.cache()
    assert one.sample(2) == two.sample(2)
    assert not one.notes + two.notes


@pytest.mark.parametrize("name", sorted(STATE))
def test_the_optimizers_state_takes_what_is_said(name: str) -> None:
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in ((80, 64), (64, 3), (7,))]
    settings = Settings(optimizer=name, lr=1.0 if name == "prodigy" else 1e-3)
    if package := {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedulefree": "schedulefree"}.get(name):
        pytest.importorskip(package)
    optimizer = optimizers.build(name, [{"params": parameters, "lr": settings.lr}], settings)
    getattr(optimizer, "train", lambda: None)()
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    held = nbytes(v for state in optimizer.state.values() for v in state.values() if getattr(v, "numel", int)() > 1)
    assert held == pytest.approx(sum(map(STATE[name], parameters)), rel=0.02, abs=2100)


def test_more_of_everything_takes_more() -> None:
    small, large = (Rehearsal(toy(batch=b), loaded(toy()), CPU).train() for b in (2, 16))
    assert small[0] < large[0]
    assert small[1] * 8 == pytest.approx(large[1], rel=0.01)
    averaged = Weights.of(toy(ema=0.9), loaded(toy()))
    assert averaged.resident("train")["ema"] == averaged.adapter
    freed = Weights.of(toy(free_encoders=True), loaded(toy()))
    assert sum(freed.resident("train").values()) < sum(freed.resident("preview").values())


def test_time_comes_from_an_earlier_run_like_this_one(tmp_path: Path) -> None:
    from studio.events import Event
    from studio.store import Store

    config = toy(steps=10).model_copy(update={"runs": tmp_path, "run": "before"})
    assert "rough" in plan_time.step(config, 10**6, CPU, torch.float32)[1]
    run = Store(tmp_path).create(config)
    for step in range(1, 9):
        run.log(Event("train", step, {"loss": 1.0}, time=100 + 0.25 * step))
    assert plan_time.step(config, 10**6, CPU, torch.float32) == (0.25, "measured in the run before")
    other = toy(steps=10, batch=7).model_copy(update={"runs": tmp_path})
    assert "rough" in plan_time.step(other, 10**6, CPU, torch.float32)[1]


def test_the_command_says_all_and_refuses_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["dreambooth", "--model", "toy", "--data.folder", str(tmp_path), "--runs", str(tmp_path)]
    assert command.main([*args, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["predicted"]) == {"load", "cache", "train", "preview", "export", "check"}
    assert all(phase["parts"]["process"] > 0 for phase in said["phases"])
    monkeypatch.setattr(memory, "free", lambda device: 2**20)
    with pytest.raises(MemoryShortage, match="are free"):
        command.main(args)
    assert "does not fit" in capsys.readouterr().out


def test_peaks_are_those_of_their_phases() -> None:
    peaks = Peaks(CPU)
    peaks.enter("one")
    big = torch.ones(2**26)  # 256 MiB
    del big
    peaks.enter("two")
    small = torch.ones(2**22)
    peaks.end()
    assert peaks.found["one"] - peaks.found["two"] > 2**27
    assert len(small) == 2**22


def test_a_phase_that_no_plan_foresees_says_so() -> None:
    heard: list[Event] = []
    journal = Journal(heard.append)
    journal.watch(CPU, {"load": 2**30})
    journal.enter("score")
    journal.unwatch()
    known, unknown = heard
    assert known["message"].endswith("(1.00 predicted)")
    assert unknown["message"].endswith("(not predicted)")
    assert unknown["predicted"] is None


@pytest.mark.parametrize("name", ["batch 32, gradient checkpointing"])  # one that nothing was fitted to
def test_memory_is_predicted_within_a_fifth(name: str) -> None:
    row = bench_plan.apart(name)
    for phase, one in row.items():
        assert abs(bench_plan.error(one)) < 0.2, phase
    grown = row["train"]["measured"] - row["train"]["before"]
    assert abs(row["train"]["work"] / grown - 1) < 0.2  # what training adds, without the process below it


def test_a_loop_on_the_toy_stays_within_the_plan() -> None:
    config = toy(batch=4, steps=3)
    model = loaded(config)
    rehearsal = Rehearsal(config, model, CPU)
    source = registry.trainer("dreambooth").losses(config.settings, model, model.adapter, Always(rehearsal), {})
    rehearsal.twin, weights = model, Weights.of(config, model)
    with Live(twin.tensors(model)) as live:
        for _ in islice(loop.train(config.settings, model, model.adapter, source, {}), 3):
            pass
    predicted = Rehearsal(config, loaded(config), CPU).train()[0] + weights.optimizer + weights.undo
    assert live.peak == pytest.approx(predicted, rel=0.35)
