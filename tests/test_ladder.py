"""Out of memory: one retry with the next rung, from the newest checkpoint, then what would fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from studio import ladder
from studio.config import RunConfig, make
from studio.disk import DiskFull
from studio.ladder import Have
from studio.pipelines import backbone, freeing, offload
from studio.pipelines.errors import MemoryShortage, UsageError
from studio.plan_live import nbytes
from studio.store import Run, Store
from tests.models import backbone as tiny

GPU = Have("cuda", frozenset({"bitsandbytes", "torchao"}))


def config(tmp_path: Path, **settings: Any) -> RunConfig:
    flags = {"model": "toy", "run": "one", "runs": tmp_path, "settings": {"precision": "no", **settings}}
    return make("dreambooth", flags=flags)


def way_down(start: RunConfig, have: Have) -> list[str]:
    """Every rung in turn."""
    said = []
    while found := ladder.next_rung(start, have):
        start, sentence = found
        said.append(sentence)
    return said


def test_the_ladder_is_the_stated_one_and_ends(tmp_path: Path) -> None:
    said = way_down(config(tmp_path, batch=6), GPU)
    assert [sentence.partition(" (")[2] for sentence in said] == [
        "free_encoders = True)",
        "gradient_checkpointing = True)",
        "batch = 3, accumulate = 2)",
        "batch = 1, accumulate = 6)",
        "optimizer = adamw8bit)",
        "quantize = int8)",
    ]
    assert "offload = True" in way_down(config(tmp_path), Have("cuda"))[-1]


@pytest.mark.parametrize("batch", [1, 2, 7, 12, 30])
def test_no_rung_changes_the_effective_batch(tmp_path: Path, batch: int) -> None:
    start = config(tmp_path, batch=batch, accumulate=3)
    while found := ladder.next_rung(start, GPU):
        start = found[0]
        assert start.settings.batch * start.settings.accumulate == 3 * batch


def test_what_is_not_there_is_not_offered(tmp_path: Path) -> None:
    said = " ".join(way_down(config(tmp_path, batch=2), Have("cpu")))
    assert not any(word in said for word in ("8bit", "quantize", "offload"))
    assert "8bit" not in " ".join(way_down(config(tmp_path), Have("cuda", GPU.packages, checkpoint=True)))


def test_a_rung_that_does_not_help_is_passed_by(tmp_path: Path) -> None:
    def cost(one: RunConfig) -> int:
        return one.settings.batch

    found = ladder.next_rung(config(tmp_path, batch=4), Have(), cost)
    assert found is not None
    assert "batch = 2" in found[1]
    fitting, said, size = ladder.until_it_fits(config(tmp_path, batch=8), Have(), cost, free=2)
    assert (fitting.settings.batch, len(said), size) == (2, 2, 2)


class Journal:
    """Keeps what is said, and writes it where a run does."""

    def __init__(self, run: Run) -> None:
        self.run, self.said = run, []

    def __call__(self, event: str, **fields: Any) -> None:
        from studio.events import Event

        self.said.append((event, fields))
        self.run.log(Event("train", 0, {}, event, fields))


def start(tmp_path: Path, **settings: Any) -> tuple[RunConfig, Run, Journal]:
    """A run's folder as it is when training begins; what the encoders' rung would do was done."""
    wanted = config(tmp_path, free_encoders=True, gradient_checkpointing=True, **settings)
    run = Store(tmp_path).create(wanted)
    return wanted, run, Journal(run)


def test_one_retry_with_the_next_rung_announced_written_and_remembered(tmp_path: Path) -> None:
    wanted, run, journal = start(tmp_path, batch=4)
    tried: list[tuple[int, bool]] = []

    def once(one: RunConfig, accept: bool) -> str:
        tried.append((one.settings.batch, accept))
        if one.settings.batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert ladder.retrying(once, wanted, run, journal) == "done"
    assert tried == [(4, False), (2, True)]
    assert "batch = 2, accumulate = 2" in journal.said[0][1]["message"]
    assert [event for event, _ in journal.said] == ["warning", "retry"]
    there = run.config().settings
    assert (there.batch, there.accumulate) == (2, 2)
    tried.clear()
    assert ladder.retrying(once, wanted, run, journal) == "done"  # the same command again
    assert tried == [(2, False)]
    other = config(tmp_path, batch=16, free_encoders=True)
    assert ladder.remembered(run, other) == other


def test_a_second_shortage_says_what_would_fit(tmp_path: Path) -> None:
    wanted, run, journal = start(tmp_path, batch=4)
    tried: list[int] = []

    def once(one: RunConfig, accept: bool) -> None:
        tried.append(one.settings.batch)
        raise MemoryShortage("step 1: the device's memory is full; use a smaller batch")

    with pytest.raises(MemoryShortage, match="batch = 1, accumulate = 4") as problem:
        ladder.retrying(once, wanted, run, journal)
    assert tried == [4, 2]
    assert "\n" not in str(problem.value)
    wanted, run, journal = start(tmp_path / "planned", batch=8)
    with pytest.raises(MemoryShortage, match=r"by the plan this fits: .*batch = 2, accumulate = 4"):  # not what failed
        ladder.retrying(once, wanted, run, journal, cost=lambda one: one.settings.batch)


@pytest.mark.parametrize("error", [DiskFull("full"), RuntimeError("shape"), UsageError("no"), KeyboardInterrupt()])
def test_nothing_else_is_tried_again(tmp_path: Path, error: BaseException) -> None:
    wanted, run, journal = start(tmp_path, batch=4)
    tried: list[int] = []

    def once(one: RunConfig, accept: bool) -> None:
        tried.append(1)
        raise error

    with pytest.raises(type(error)):
        ladder.retrying(once, wanted, run, journal)
    assert tried == [1]


def test_the_cpu_allocators_error_is_a_shortage() -> None:
    with pytest.raises(RuntimeError) as problem:
        torch.empty(2**50)
    assert ladder.short(problem.value)
    assert ladder.short(MemoryError())


def test_parked_encoders_take_nothing_and_come_back_bit_for_bit(tmp_path: Path) -> None:
    model = tiny("tiny-sd-eps", tmp_path)
    text, pictures = ["a cat"], torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = model.embed(text).tokens, *model.encode_moments(pictures), model.decode(torch.zeros(1, 4, 16, 16))
    fingerprint = model.fingerprint()
    parked = freeing.encoders(model, tmp_path)
    assert len(parked) == 2
    for _ in range(2):
        freeing.park(parked)
        assert nbytes(model.vae.parameters()) == nbytes(model.text_encoders["text_encoder"].parameters()) == 0
        with torch.no_grad():
            after = model.embed(text).tokens, *model.encode_moments(pictures), model.decode(torch.zeros(1, 4, 16, 16))
        assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert model.fingerprint() == fingerprint
    assert not list(tmp_path.glob("parked-*"))


def test_a_text_encoder_that_learns_is_not_parked(tmp_path: Path) -> None:
    wanted = config(tmp_path, adapter={"text_encoder": True})
    model = tiny("tiny-sd-eps", tmp_path)
    wanted.settings.adapter.build(model)
    assert [type(one.module).__name__ for one in freeing.encoders(model, tmp_path)] == ["AutoencoderKL"]


def gradients(model: Any) -> list[torch.Tensor]:
    """The gradients of one step of a network whose adapter does something."""
    with torch.no_grad():
        for parameter in model.adapter.parameters():
            parameter.fill_(0.01).grad = None
        cond = model.embed(["a cat", "a dog"])
    generator = torch.Generator().manual_seed(1)
    noisy = model.noise(torch.ones(2, *model.latent_shape(32, 32)), generator, t=torch.tensor([10, 500]))
    (model.predict(noisy.x, noisy.t, cond) - noisy.target).square().mean().backward()
    return [parameter.grad.clone() for parameter in model.adapter.parameters()]


def frozen_bytes(model: Any) -> int:
    return nbytes(parameter for parameter in model.net.parameters() if not parameter.requires_grad)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_offloaded_network_gives_the_same_gradients(tmp_path: Path, checkpointing: bool) -> None:
    model: Any = tiny("tiny-sd-eps", tmp_path)
    config(tmp_path).settings.adapter.build(model)
    if checkpointing:
        model.net.enable_gradient_checkpointing()
    expected, whole = gradients(model), frozen_bytes(model)
    waiting = offload.Offload(model.net, torch.device("cpu"))
    assert frozen_bytes(model) == 0
    assert nbytes(waiting.home.values()) == whole
    packed: list[object] = []
    pack = waiting.pack
    waiting.pack = lambda tensor: packed.append(kept := pack(tensor)) or kept  # type: ignore[method-assign]
    with waiting.training():
        found = gradients(model)
    assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))
    assert frozen_bytes(model) == 0
    assert checkpointing or any(isinstance(kept, tuple) for kept in packed)  # no graph held a copy of the weights


def test_the_toy_frees_its_encoder_too(tmp_path: Path) -> None:
    model = backbone.load("toy")
    parked = freeing.encoders(model, tmp_path)
    freeing.park(parked)
    assert nbytes(model.text_encoders["text_encoder"].parameters()) == 0
    with torch.no_grad():
        assert model.embed(["a"]).tokens.isfinite().all()


def test_settings_that_cannot_be_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="offload"):
        ladder.refuse(config(tmp_path, offload=True).settings, "cpu")
    with pytest.raises(UsageError, match="exclude"):
        ladder.refuse(config(tmp_path, offload=True, quantize="int8").settings, "cuda")


def test_saving_memory_changes_no_step(tmp_path: Path) -> None:
    from studio.thrift import Thrift

    model: Any = tiny("tiny-sd-eps", tmp_path)
    settings = config(tmp_path, free_encoders=True).settings
    thrift = Thrift(settings, model)
    settings.adapter.build(model)
    expected = gradients(model)
    with thrift.training(tmp_path):
        assert nbytes(model.vae.parameters()) == 0
        found = gradients(model)
        thrift.park()
        assert nbytes(model.text_encoders["text_encoder"].parameters()) == 0
    assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))


def test_a_missing_package_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from studio.thrift import Thrift

    for package in ("torchao.quantization", "bitsandbytes.nn"):
        monkeypatch.setitem(sys.modules, package, None)
    for kind in ("int8",):
        with pytest.raises(UsageError, match=f"quantize = '{kind}' needs"):
            Thrift(config(tmp_path, quantize=kind).settings, tiny("tiny-sd-eps", tmp_path))


def test_a_run_goes_down_one_rung_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from studio.train import train
    from studio.trainers import dreambooth

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 0, 99)).save(folder / f"{number}.png")
    original = dreambooth.losses

    def losses(settings: Any, *rest: Any) -> Any:
        for step, one in enumerate(original(settings, *rest)):
            if settings.batch > 2 and step == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            yield one

    monkeypatch.setattr(dreambooth, "losses", losses)
    small = {"free_encoders": True, "steps": 4, "save_every": 1, "data": {"folder": folder}, "previews": {"steps": 2}}
    wanted = config(tmp_path / "runs", batch=4, **small)
    run, told = Run(train(wanted)), [1]
    assert run.state() == "done"
    assert (run.config().settings.batch, run.config().settings.accumulate) == (2, 2)
    assert sorted(run.curve()) == [1, 2, 3, 4]
    assert run.last("retry") is not None
    assert any("memory ran out" in str(e.fields.get("message")) for e in run.events() if e.event == "warning")
    train(wanted, lambda event: told.append(event.step) if event.numbers else None)  # the same command: finished
    assert told == [1]
