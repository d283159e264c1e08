"""Adapter families: each flag is what is measured, both ways; and each trains, stops and comes back exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from studio.pipelines.adapters import eva, files
from studio.pipelines.errors import StudioError, UsageError
from studio.pipelines.offload import Offload
from studio.pipelines.protocols import Backbone
from tests.families import OWN, TINY, VARIANTS, backbone, build, close, moved, output
from tests.states import differences, frozen, through_disk
from tests.trainers.test_contract import Lesson, lesson, told

FLAGS = ("exact_off", "identity_at_init", "linear_scale", "conv_ok", "unmerged_ok")
MIXED = ("lora", "eva+freeze_a", "lokr whole")  # trained on the toy alone: the contract and their parts cover the rest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, colour in enumerate(("red", "teal", "gold")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{i}.png")
    return folder


def inputs(layer: Any) -> Tensor:
    """Something that one of peft's layers can be given."""
    base = layer.get_base_layer()
    shape = (2, base.in_channels, 6, 6) if isinstance(base, nn.Conv2d) else (3, base.in_features)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def linear(adapter: Any) -> bool:
    """Whether at strength s every layer is base + s * (full - base)."""
    for layer in adapter._wrapped.values():
        x = inputs(layer)
        with adapter.off():
            base = layer(x)
        full = layer(x)
        for strength in (-1.0, 0.5, 2.0):
            with adapter.scaled(strength):
                if not close(layer(x), base + strength * (full - base)):
                    return False
    return True


def merges(adapter: Any, model: Backbone) -> bool:
    """Whether the unmerged model is the one whose weights hold the update, at two strengths."""
    for strength in (1.0, 0.6):
        with adapter.merged(strength):
            merged = output(model)
        with adapter.scaled(strength):
            if not close(output(model), merged):
                return False
    return True


def convolves(variant: str, model: Backbone) -> bool:
    """Whether convolutions larger than 1x1 start as the base and merge; a refused family is shown to be wrong."""
    before = output(model)
    wide = [n for n, m in model.net.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    try:
        adapter = build(model, variant, targets=",".join(wide))
    except UsageError:
        peft.inject_adapter_in_model(peft.OFTConfig(oft_block_size=2, r=0, target_modules=wide), model.net)
        assert not close(output(model), before), "peft's OFT is right for convolutions now: offer it"
        return False
    if not close(output(model), before):
        return False
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    assert not close(output(model), before)
    return merges(adapter, model)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_flag_is_what_is_measured(variant: str, name: str, made: Path) -> None:
    model = backbone(name, made)
    base, prints = output(model), model.fingerprint()
    adapter = build(model, variant, targets="attention+ff", text_encoder=True)
    measured = {"identity_at_init": torch.equal(output(model), base)}
    adapter.remove()
    assert torch.equal(output(model), base)
    adapter = moved(model, variant, targets="attention+ff", text_encoder=True)
    assert not close(output(model), base)
    with adapter.off(), adapter.scaled(0.5):
        measured["exact_off"] = torch.equal(output(model), base)
    measured["linear_scale"] = linear(adapter)
    measured["unmerged_ok"] = merges(adapter, model)
    measured["conv_ok"] = convolves(variant, backbone(name, made))
    assert measured == {flag: getattr(adapter, flag) for flag in FLAGS}
    assert model.fingerprint() == prints
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}


OFFENDERS: dict[str, Callable[[], Any]] = {
    "exact_off": lambda: peft.LoraConfig(r=2, init_lora_weights="pissa", target_modules=["to_q"]),
    "identity_at_init": lambda: peft.FourierFTConfig(n_frequency=16, target_modules=["to_q"]),
}


@pytest.mark.parametrize("flag", OFFENDERS)
def test_what_is_known_to_fail_is_seen_to_fail(flag: str, made: Path) -> None:
    """The measures have teeth: PiSSA changes the base for good, FourierFT starts elsewhere."""
    model = backbone("tiny-sd-eps", made)
    base = output(model)
    peft.inject_adapter_in_model(OFFENDERS[flag](), model.net)
    if flag == "exact_off":
        for layer in model.net.modules():
            if hasattr(layer, "_disable_adapters"):
                layer._disable_adapters = True
    assert not close(output(model), base)


def test_peft_alone_ignores_the_strength_of_a_rotation(made: Path) -> None:
    """Why the strength of OFT is ours: peft only warns."""
    model = backbone("toy", made)
    adapter = moved(model, "oft")
    layer = next(iter(adapter._wrapped.values()))
    x = inputs(layer)
    full = layer(x)
    with pytest.warns(UserWarning, match="not supported"):
        layer.scale_layer(0.5)
    assert torch.equal(layer(x), full)


@pytest.mark.parametrize("variant", VARIANTS)
def test_merging_leaves_the_very_tensors(variant: str, made: Path) -> None:
    """After merged(), even through an error: the same storages with the same bits; inside, nothing can be switched."""
    model = backbone("toy", made)
    adapter = moved(model, variant, targets="attention+ff")
    before, trained = frozen(model), output(model)
    places = [p.data_ptr() for p in model.net.parameters()]
    with adapter.merged(0.7):
        assert not torch.equal(output(model), trained)
        with pytest.raises(StudioError, match="merged"), adapter.off():
            pass
    with pytest.raises(KeyError), adapter.merged():
        raise KeyError
    with adapter.merged(0.0), adapter.off():
        base = output(model)
    after = frozen(model)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert places == [p.data_ptr() for p in model.net.parameters()]
    assert torch.equal(output(model), trained)
    assert not torch.equal(base, trained)


@pytest.mark.parametrize("variant", OWN)
def test_strengths_multiply_and_zero_is_exact(variant: str, made: Path) -> None:
    model = backbone("toy", made)
    base = output(model)
    adapter = moved(model, variant)
    with adapter.scaled(0.25):
        quarter = output(model)
    with adapter.scaled(0.5):
        with adapter.scaled(0.0):
            assert torch.equal(output(model), base)
        with adapter.scaled(0.5):
            assert close(output(model), quarter)


@pytest.mark.parametrize("variant", OWN)
def test_half_precision_bases_learn(variant: str, made: Path) -> None:
    """A bfloat16 base under autocast: finite float32 gradients for everything that learns."""
    model = backbone("tiny-sd-eps", made).to("cpu", torch.bfloat16)
    adapter = moved(model, variant, targets="attention+ff")
    x, cond = torch.randn(2, 4, 16, 16), model.embed(["a", "b"])
    for mixed, strength in ((False, 1.0), (True, 1.0), (False, 0.5), (True, 0.5)):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed), adapter.scaled(strength):
            model.predict(x, torch.tensor([1, 2]), cond).square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype == torch.float32 for p in adapter.parameters())
    assert all(p.grad.isfinite().all() and p.grad.any() for p in adapter.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_which_families_can_wait_for_their_weights(variant: str, made: Path, tmp_path: Path) -> None:
    """Offloaded: what reads the frozen weights themselves cannot; everything else is the same to the bit."""
    model = backbone("toy", made)
    adapter = moved(model, variant)
    expected = output(model)
    Offload(model.net, torch.device("cpu"))
    if variant in ("dora", "loha", "lokr", "lokr whole"):
        with pytest.raises(RuntimeError):
            output(model)
    else:
        assert torch.equal(output(model), expected)
        with adapter.merged():  # cannot be, and is the unmerged one
            assert torch.equal(output(model), expected)
        left = [path.name for path in files.exports(model, adapter, tmp_path, {})]
        assert "adapter.lora.safetensors" not in left
        fresh = backbone("toy", made)
        files.load(fresh, tmp_path / left[0])
        assert torch.equal(output(fresh), expected)


@pytest.fixture(autouse=True)
def from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lessons copy their models, which is faster than loading them."""
    monkeypatch.setattr("tests.trainers.test_contract.backbone", backbone)


def begin(variant: str, name: str, made: Path, photos: Path, steps: int) -> Lesson:
    adapter = {"rank": 2, **VARIANTS[variant]}
    return lesson("dreambooth", name, made, photos, adapter=adapter, steps=steps)


def prepared(one: Lesson) -> Lesson:
    if isinstance(one.adapter, eva.Eva):
        one.adapter.prepare(one.stream.at(number) for number in range(4))
    return one


@pytest.mark.parametrize(
    ("variant", "name"), [(v, n) for v in VARIANTS for n in ("toy", *TINY) if n == "toy" or v not in MIXED]
)
def test_training_stops_and_goes_on_exactly(variant: str, name: str, made: Path, photos: Path, tmp_path: Path) -> None:
    """Everything that learns does, nothing else moves; stopped and resumed is straight, bit for bit."""
    straight = prepared(begin(variant, name, made, photos, 3))
    base, still = output(straight.model), frozen(straight.model)
    before = {key: value.clone() for key, value in straight.adapter.state_dict().items()}
    ticks = straight.run()
    end, trained = ticks[-1].state(), output(straight.model)
    assert all(math.isfinite(value) for tick in ticks for value in tick.floats().values())
    assert [tick.messages[0][:19] for tick in ticks if tick.messages] == ["learning audit: all"]
    with straight.adapter.off():
        assert torch.equal(output(straight.model), base)
    assert not torch.equal(trained, base)
    now = frozen(straight.model)
    assert [key for key, value in still.items() if not torch.equal(value, now[key])] == []
    still_there = {key for key, value in straight.adapter.state_dict().items() if torch.equal(value, before[key])}
    fixed = {key for key in before if "freeze_a" in variant and ".lora_A." in key}
    assert still_there - fixed <= {key for key in before if "add_q_proj" in key}  # whose last block drops its text
    assert fixed <= still_there
    assert not fixed & set(straight.adapter.named_parameters())

    first = prepared(begin(variant, name, made, photos, 3))
    head = first.run(stop=lambda: first.stream.position >= 1)
    state, position = through_disk(head[-1].state(), tmp_path), first.stream.position
    torch.manual_seed(99)
    second = begin(variant, name, made, photos, 3)  # not prepared: a run that goes on never is
    second.stream.position = position
    tail = second.run(start=head[-1].step, state=state)
    assert list(map(told, head + tail)) == list(map(told, ticks))
    assert differences(tail[-1].state(), end) == []
    assert torch.equal(output(second.model), trained)
