"""Files of the families: to the bit for ours, by the formats' own formulas for other tools."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.pipelines.adapters import families_files, families_svd, files
from studio.pipelines.errors import ModelError, UsageError
from tests.families import OWN, TINY, backbone, close, moved, output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def places(variant: str, name: str) -> dict[str, Any]:
    """Convolutions too where the family can."""
    conv = name == "tiny-sd-eps" and variant != "oft"
    return {"targets": "attention+ff" + "+conv" * conv, "text_encoder": True}


@pytest.mark.parametrize(
    ("variant", "name"), [(v, n) for v in OWN for n in TINY if (v, n) != ("lokr whole", "tiny-sd3")]
)
def test_files_come_back_to_the_bit_and_stock_agrees(variant: str, name: str, made: Path, tmp_path: Path) -> None:
    """Our reader, plain peft in a stock pipeline, and the nearest LoRA by `load_lora_weights`, as near as it says."""
    model = backbone(name, made)
    base = output(model)
    adapter = moved(model, variant, **places(variant, name))
    trained = output(model)
    paths = files.exports(model, adapter, tmp_path, {"trigger": "zxc"})
    assert paths[0].name == "adapter.safetensors"
    assert header(paths[0])["trigger"] == "zxc"

    fresh = backbone(name, made)
    read = files.load(fresh, paths[0])
    assert torch.equal(output(fresh), trained)
    assert read.config == adapter.config
    again = files.save(fresh, read, tmp_path / "again.safetensors", {"trigger": "zxc"})
    assert again.read_bytes() == paths[0].read_bytes()

    fresh = backbone(name, made)
    files.into_stock(fresh.pipeline(), fresh, paths[0])
    assert close(output(fresh), trained)

    fresh = backbone(name, made)
    fresh.pipeline().load_lora_weights(str(tmp_path), weight_name="adapter.lora.safetensors")
    told = json.loads(header(tmp_path / "adapter.lora.safetensors")["studio.svd_energy"])
    assert set(told) == {"all", *adapter._wrapped}
    assert 0.5 < told["all"] <= 1
    off = (output(fresh) - trained).norm() / (trained - base).norm()
    assert off < 1e-3 if variant == "loha" else off < 0.3


def hadamard(own: dict[str, Tensor]) -> Tensor:
    scale = own["alpha"] / len(own["hada_w1_b"])
    return (own["hada_w1_a"] @ own["hada_w1_b"]) * (own["hada_w2_a"] @ own["hada_w2_b"]) * scale


def kronecker(own: dict[str, Tensor]) -> Tensor:
    """As ComfyUI: alpha counts only where a factor is a product."""
    if "lokr_w2" in own:
        one, two = own["lokr_w1"], own["lokr_w2"]
        return torch.kron(one[..., None, None] if two.ndim == 4 else one, two)
    return torch.kron(own["lokr_w1"], own["lokr_w2_a"] @ own["lokr_w2_b"]) * own["alpha"] / len(own["lokr_w2_b"])


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("variant", ["loha", "lokr", "lokr whole"])
def test_lycoris_keys_hold_the_update_by_lycoris_formulas(variant: str, name: str, made: Path, tmp_path: Path) -> None:
    """Every layer, convolutions and alpha included, from the file alone."""
    model = backbone(name, made)
    adapter = moved(model, variant, **places(variant, name), alpha=3.0)
    tensors = load_file(files.save(model, adapter, tmp_path / "adapter.safetensors"))
    prefix = {"unet": "lora_unet_", "transformer": "lycoris_", "text_encoder_2": "lora_te2_text_model_"}
    first = "lora_te1_text_model_" if name == "tiny-sd3" else "lora_te_text_model_"
    seen = set()
    for full, (delta, _) in adapter.changes().items():
        part, _, layer = full.partition(".")
        key = prefix.get(part, first) + layer.removeprefix("text_model.").replace(".", "_") + "."
        own = {name.removeprefix(key): tensor for name, tensor in tensors.items() if name.startswith(key)}
        made_up = (hadamard if variant == "loha" else kronecker)(own)
        assert close(made_up.view_as(delta), delta), full
        seen |= {key + name for name in own}
    assert seen == set(tensors)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("variant", ["oft", "ia3"])
def test_peft_reads_its_own_layout(variant: str, name: str, made: Path, tmp_path: Path) -> None:
    model = backbone(name, made)
    adapter = moved(model, variant)
    trained = output(model)
    files.exports(model, adapter, tmp_path, {})
    fresh = backbone(name, made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        fresh.net = peft.PeftModel.from_pretrained(fresh.net, tmp_path / "peft" / fresh.net_name)
    assert close(output(fresh), trained)


def test_what_a_lora_keeps_is_told_truly(made: Path) -> None:
    """Against the full singular values; a LoHa of rank r is a LoRA of rank r^2 exactly; biases are counted out."""
    adapter = moved(backbone("tiny-sd-eps", made), "ia3")
    found = families_svd.factors(adapter)
    assert len(found.lost) == sum(bias is not None and bool(bias.any()) for _, bias in adapter.changes().values()) > 0
    for name, (delta, _) in adapter.changes().items():
        down, up = (found.tensors[f"{name}.lora_{side}.weight"] for side in "AB")
        kept = (up @ down).square().sum() / delta.square().sum()
        assert abs(float(kept) - found.kept[name]) < 1e-4
        assert close((delta - up @ down).norm(), torch.linalg.svdvals(delta)[len(down) :].norm())
    adapter = moved(backbone("toy", made), "loha")
    found = families_svd.factors(adapter)
    assert {rank for layers in found.layers.values() for rank, _ in layers.values()} <= {1, 2, 3, 4}


def test_a_large_update_is_cut_off_and_says_so() -> None:
    """The fast route of large layers, the same every time; and an update of nothing."""
    delta = torch.randn(300, 320, generator=torch.Generator().manual_seed(0))
    down, up, kept = families_svd.truncated(delta)
    assert down.shape == (families_svd.LARGEST, 320)
    assert torch.equal(families_svd.truncated(delta)[0], down)
    best = torch.linalg.svdvals(delta)[: families_svd.LARGEST].square().sum() / delta.square().sum()
    assert abs(kept - float((up @ down).square().sum() / delta.square().sum())) < 1e-3
    assert 0.98 * best < kept <= best
    down, up, kept = families_svd.truncated(torch.zeros(8, 4, 3, 3))
    assert (down.shape, up.shape, kept) == ((1, 4, 3, 3), (8, 1, 1, 1), 1.0)


@pytest.mark.parametrize("variant", OWN)
def test_a_strength_folds_into_the_file(variant: str, made: Path, tmp_path: Path) -> None:
    model = backbone("toy", made)
    adapter = moved(model, variant)
    whole = {key: value.clone() for key, value in adapter.state_dict().items()}
    with adapter.scaled(0.6):
        expected = output(model)
    if variant == "oft":
        with pytest.raises(UsageError, match="rotations"), adapter.folded(0.6):
            pass
        return
    with adapter.folded(0.6):
        assert close(output(model), expected)
        path = files.save(model, adapter, tmp_path / "adapter.safetensors")
    assert all(torch.equal(value, adapter.state_dict()[key]) for key, value in whole.items())
    fresh = backbone("toy", made)
    files.load(fresh, path)
    assert close(output(fresh), expected)


def spoilt(path: Path, how: str) -> None:
    """A file with one thing wrong."""
    tensors, about = load_file(path), header(path)
    key = next(name for name in tensors if "to_q" in name and not name.endswith("alpha"))
    if how == "tensor gone":
        del tensors[key]
    elif how == "strange layer":
        tensors[key.replace("to_q", "to_z")] = tensors.pop(key)
    elif how == "other size":
        tensors[key] = torch.zeros(3, 5)
    elif how == "not finite":
        tensors[key].view(-1)[0] = torch.nan
    elif how == "header gone":
        del about["studio.adapter"]
    elif how == "other family":
        about["studio.adapter"] = about["studio.adapter"].replace("oft", "ia3").replace("loha", "oft")
    elif how == "plain lora":
        about["studio.adapter"] = "{}"
    elif how == "unknown kind":
        about["studio.kind"] = "../evil"
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if name.endswith("alpha")} or {"x": torch.ones(1)}
    save_file(tensors, path, about)


HOWS = ("tensor gone", "strange layer", "other size", "not finite", "header gone", "other family", "plain lora")


@pytest.mark.parametrize("how", [*HOWS, "unknown kind", "nothing in it"])
@pytest.mark.parametrize("variant", ["loha", "oft"])
def test_what_is_no_such_file_is_refused_by_name(variant: str, how: str, made: Path, tmp_path: Path) -> None:
    """In one line, and the model stays the base model."""
    model = backbone("toy", made)
    path = files.save(model, moved(model, variant), tmp_path / "adapter.safetensors")
    spoilt(path, how)
    fresh = backbone("toy", made)
    base = output(fresh)
    with pytest.raises(ModelError, match="adapter.safetensors") as caught:
        files.load(fresh, path)
    assert "\n" not in str(caught.value)
    assert fresh.adapter is None
    assert torch.equal(output(fresh), base)


def test_another_models_file_is_refused(made: Path, tmp_path: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    for variant in ("lokr", "ia3"):
        adapter = moved(model, variant)
        path = families_files.save(model, adapter, tmp_path / "adapter.safetensors")
        adapter.remove()
        with pytest.raises(ModelError, match="use the model the file was trained on"):
            files.load(backbone("tiny-sd3", made), path)
