"""SaRA's files: exact, of one base model, added on the union of entries, and in other tools' forms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.pipelines import backbone
from studio.pipelines.adapters import files, sara_add, sara_exports, sara_files, sara_select, writing
from studio.pipelines.adapters.sara import Config, SaRA
from studio.pipelines.errors import ModelError, UsageError
from tests.models import backbone as made_backbone
from tests.sara import Small, attach, moved, output, weights


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A toy adapter's file."""
    model = backbone.load("toy")
    return sara_files.save(model, moved(attach(model, quantile=0.3)), tmp_path / "one.safetensors", {"trigger": "zwx"})


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return dict(opened.metadata())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_come_back_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    model, fresh = backbone.load("toy", dtype=dtype), backbone.load("toy", dtype=dtype)
    adapter = moved(attach(model, quantile=0.3))
    path = sara_files.save(model, adapter, tmp_path / "a.safetensors", {"trigger": "zwx"})
    assert header(path)["trigger"] == "zwx"
    assert header(path)["studio.kind"] == "sara"
    about = json.loads(header(path)["studio.sara"])
    assert about["entries"] == sum(map(len, adapter.parameters()))
    assert about["quantile"] == 0.3
    loaded = sara_files.load(fresh, path)
    assert loaded.config == adapter.config
    assert loaded.threshold == about["threshold"] == adapter.threshold
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in adapter.state_dict().items())
    assert torch.equal(output(fresh), output(model))
    assert sara_files.save(fresh, loaded, tmp_path / "b.safetensors", {"trigger": "zwx"}).read_bytes() == (
        path.read_bytes()
    )


@pytest.mark.parametrize(("store", "size"), [("delta", 4), ("delta-fp16", 2), ("delta-bf16", 2)])
def test_changes_come_back_within_their_rounding(store: Any, size: int, tmp_path: Path) -> None:
    model, fresh = backbone.load("toy"), backbone.load("toy")
    adapter = moved(attach(model, quantile=0.3, store=store))
    path = sara_files.save(model, adapter, tmp_path / "a.safetensors")
    stored = load_file(path)
    assert {tensor.element_size() for name, tensor in stored.items() if name.endswith(".delta")} == {size}
    sara_files.load(fresh, path)
    for name, place in adapter.places.items():
        found, base = fresh.adapter.places[name].values(), place.original.float()  # type: ignore[union-attr]
        size_of = torch.maximum(place.values().abs(), base.abs())
        unit = {"delta": 2.0**-22, "delta-fp16": 2.0**-10, "delta-bf16": 2.0**-7}[store]
        assert ((found - place.values()).abs() <= unit * torch.maximum(size_of, (place.values() - base).abs())).all()


def test_a_file_goes_into_its_own_base_in_any_precision(file: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = backbone.load("toy", dtype=dtype)
        assert sara_files.load(model, file).enabled
    model = backbone.load("toy", dtype=torch.bfloat16)
    path = sara_files.save(model, attach(model, quantile=0.1), file.with_name("half.safetensors"))
    sara_files.load(backbone.load("toy"), path)
    with pytest.raises(ModelError, match="in 'bfloat16' and not in float16"):
        sara_files.load(backbone.load("toy", dtype=torch.float16), path)


def test_another_base_is_refused(file: Path) -> None:
    other = backbone.load("toy")
    weight = other.net.get_parameter("time.weight").data
    weight.view(-1)[7] = torch.nextafter(weight.view(-1)[7], torch.tensor(math.inf))
    with pytest.raises(ModelError, match="made for another base model"):
        sara_files.load(other, file)
    assert other.adapter is None


def spoil(tensors: dict[str, Tensor], about: dict[str, str], how: str) -> None:
    index, values = "unet.time.weight.indices", "unet.time.weight.values"
    if how == "lacks":
        del tensors[values]
    if how == "number":
        tensors[values] = tensors[values][:-1]
    if how == "order":
        tensors[index] = tensors[index].flip(0)
    if how == "outside":
        tensors[index] = tensors[index] + 256
    if how == "finite":
        tensors[values][3] = math.nan
    if how == "no ":
        tensors["unet.strange.weight.indices"] = tensors[index].clone()
    if how == "tensors that":
        tensors["unet.time.weight.more"] = tensors[values].clone()
    if how == "header":
        about["studio.sara"] = "[]"
    if how == "version":
        about["studio.sara"] = json.dumps(json.loads(about["studio.sara"]) | {"version": 2})
    if how == "not a SaRA":
        about["studio.kind"] = "lora"


HOW = ["lacks", "number", "order", "outside", "finite", "no ", "tensors that", "header", "version", "not a SaRA"]


@pytest.mark.parametrize("how", HOW)
def test_damaged_files_are_refused_in_one_line(file: Path, how: str) -> None:
    tensors, about = load_file(file), header(file)
    spoil(tensors, about, how)
    save_file(tensors, file, about)
    model = backbone.load("toy")
    with pytest.raises(ModelError, match=how) as caught:
        sara_files.load(model, file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert model.adapter is None
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="not a readable"):
        sara_files.load(model, file)
    with pytest.raises(ModelError, match="no such adapter"):
        sara_files.load(model, file.with_name("none.safetensors"))


def test_several_files_add_on_the_union(tmp_path: Path) -> None:
    """base + a1 dP1 + a2 dP2 + a3 dP3, to the same bit in any order."""
    paths, changes = [], []
    for number, settings in enumerate(
        [{"quantile": 0.2}, {"quantile": 0.3}, {"targets": "attention", "threshold": 0.1}]
    ):
        model = backbone.load("toy")
        base = weights(model)
        adapter = moved(attach(model, **settings), seed=number)
        changes.append({name: tensor.double() - base[name].double() for name, tensor in weights(model).items()})
        paths.append(sara_files.save(model, adapter, tmp_path / f"{number}.safetensors"))
    strengths = [0.6, 0.6, -0.3]
    parts = list(zip(paths, strengths, strict=True))
    found = []
    for order in (parts, parts[::-1], [parts[1], parts[2], parts[0]]):
        model = backbone.load("toy")
        sara_add.stack(model, order)
        found.append(weights(model))
    for name, tensor in found[0].items():
        assert all(torch.equal(tensor, other[name]) for other in found[1:])
        wanted = base[name].double() + sum(a * change[name] for a, change in zip(strengths, changes, strict=True))
        torch.testing.assert_close(tensor.double(), wanted, rtol=0, atol=1e-8)
    assert model.adapter is not None
    model.adapter.remove()
    assert all(torch.equal(tensor, base[name]) for name, tensor in weights(model).items())


def test_the_nearest_lora_says_what_it_keeps(tmp_path: Path) -> None:
    """Layer for layer the share of squares of the truncated SVD; what no LoRA can hold counts as lost."""
    model = backbone.load("toy")
    adapter = moved(attach(model, quantile=0.3))
    (path,) = sara_exports.save_lora(adapter, tmp_path, {})
    kept = json.loads(header(path)["studio.svd_energy"])
    tensors = load_file(path)
    whole = left = 0.0
    for name, place in adapter.places.items():
        change = sara_exports.dense(place)
        energy = change.square().sum().item()
        whole += energy
        layer = name.removesuffix(".weight")
        if name.endswith(".weight") and change.ndim > 1:
            low = (tensors[f"{layer}.lora_B.weight"].flatten(1) @ tensors[f"{layer}.lora_A.weight"].flatten(1)).view_as(
                change
            )
            share = 1 - (change - low).square().sum().item() / energy
            assert kept[layer] == pytest.approx(share, abs=1e-4)
            left += share * energy
    assert kept["all"] == pytest.approx(left / whole, abs=1e-4)
    assert 0.5 < kept["all"] < 1
    assert "biases" in header(path)["studio.svd_lost"]


def test_stock_diffusers_draws_with_both_files(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """Ours exactly, put in entry by entry; the LoRA as its own numbers say; the merged network as it is."""
    folder = tmp_path_factory.mktemp("models")
    model = made_backbone("tiny-sd-eps", folder)
    with torch.no_grad():
        base = output(model)
        adapter = moved(attach(model, quantile=0.1, exports=("lora", "full", "merged")))
        paths = sara_files.exports(model, adapter, tmp_path, {"trigger": "zwx"})
        assert [path.name for path in paths][:3] == [
            "adapter.safetensors",
            "adapter.lora.safetensors",
            "adapter.full.safetensors",
        ]
        tuned = output(model)
        fresh = made_backbone("tiny-sd-eps", folder)
        sara_files.into_stock(fresh.pipeline(), fresh, paths[0])
        assert torch.equal(output(fresh), tuned)
        near = made_backbone("tiny-sd-eps", folder)
        near.pipeline().load_lora_weights(str(tmp_path), weight_name=paths[1].name)
        kept = json.loads(header(paths[1])["studio.svd_energy"])["all"]
        error = (output(near) - tuned).norm() / (tuned - base).norm()
        assert kept > 0.5
        assert error < 1
        merged = type(model.net).from_pretrained(paths[-1].parent)  # type: ignore[attr-defined]
        assert all(torch.equal(t, merged.state_dict()[name]) for name, t in model.net.state_dict().items())


def test_lycoris_full_is_the_change(tmp_path: Path) -> None:
    """By kohya's names, dense, with biases and norms."""
    model = Small(torch.float32)
    base = weights(model)
    adapter = moved(attach(model, quantile=0.3))
    (path,) = sara_exports.save_full(adapter, tmp_path, {})
    tensors = load_file(path)
    keys = {"wide": ("diff", "diff_b"), "out": ("diff", "diff_b"), "norm": ("w_norm", "b_norm")}
    assert set(tensors) == {f"lora_unet_{name}.{key}" for name, both in keys.items() for key in both}
    for name, both in keys.items():
        for kind, key in zip(("weight", "bias"), both, strict=True):
            change = weights(model)[f"{name}.{kind}"] - base[f"{name}.{kind}"]
            torch.testing.assert_close(tensors[f"lora_unet_{name}.{key}"].float(), change, rtol=1e-3, atol=1e-7)


def test_a_network_that_cannot_be_saved_alone_is_said_before_training() -> None:
    with pytest.raises(UsageError, match="leave 'merged' out"):
        Config(exports=("merged",)).build(backbone.load("toy"))


def test_files_of_every_kind_are_told_apart_by_their_header(file: Path) -> None:
    model = backbone.load("toy")
    adapter = files.load(model, file)
    assert isinstance(adapter, SaRA)
    assert files.save(model, adapter, file.with_name("two.safetensors"), {"trigger": "zwx"}).read_bytes() == (
        file.read_bytes()
    )


def test_the_papers_learning_rate() -> None:
    assert sara_select.rate(2e-3) == pytest.approx(4.9659e-4, rel=1e-4)
    assert sara_select.rate(2e-4) == pytest.approx(9.3e-4, rel=0.01)
    assert sara_select.rate(8e-4) == pytest.approx(7.6e-4, rel=0.01)
    assert sara_select.rate(math.inf) == sara_select.rate(0.1) == pytest.approx(1e-3 * math.exp(-1.75))
    adapter = attach(Small(), threshold=1e-3)
    assert adapter.groups(0.0)[0]["lr"] == sara_select.rate(1e-3)
    assert adapter.groups(0.1)[0]["lr"] == 0.1


def test_a_lycoris_file_is_told_from_a_strange_models(tmp_path: Path) -> None:
    path = writing.write({"lora_unet_conv_in.diff": torch.ones(2, 2)}, tmp_path / "full.safetensors", {})
    with pytest.raises(ModelError, match="a LyCORIS file for other tools; use the adapter.safetensors beside it"):
        files.load(made_backbone("tiny-sd-eps", tmp_path), path)
