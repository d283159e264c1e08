"""T-LoRA files: the same bits back, a stock LoRA of the whole rank, plain LoRAs of some columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from studio.pipelines.adapters import files, tlora, tlora_files, writing
from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import Backbone
from tests import models
from tests.pipelines.test_tlora import build, made, predict

__all__ = ["made"]
TIMES = (0, 400, 999)


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize(
    ("name", "variant"), [*((name, "full") for name in models.BACKBONES), ("toy", "vanilla"), ("tiny-sd3", "vanilla")]
)
def test_a_file_gives_the_same_bits_back(name: str, variant: str, made: Path, tmp_path: Path) -> None:
    model = models.backbone(name, made)
    adapter = build(model, move=0.2, variant=variant, rank=6, r_min=2, power=1.5, targets="attention+conv")
    path = files.save(model, adapter, tmp_path / "a.safetensors", {"trigger": "sks"})
    fresh = models.backbone(name, made)
    again = files.load(fresh, path)
    assert isinstance(again, tlora.TLoRA)
    assert torch.equal(predict(fresh, *TIMES), predict(model, *TIMES))
    with again.off():
        assert torch.equal(predict(fresh, *TIMES), predict(models.backbone(name, made), *TIMES))
    assert (again.config, again.layers, again.masks.period) == (adapter.config, adapter.layers, adapter.masks.period)
    about = header(path)
    assert (about["trigger"], about["studio.kind"]) == ("sks", "tlora")
    assert json.loads(about["tlora"]) == {
        "method": f"{variant} T-LoRA",
        "R": 6,
        "r_min": 2,
        "alpha": 1.5,
        "T": 1000,
        "sig_type": "last",
        "interleaved": variant == "full",
    }
    files.save(fresh, again, tmp_path / "b.safetensors")
    second = load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(second[key], tensor) for key, tensor in load_file(path).items())


@pytest.mark.parametrize("strength", [0.6, 1.25])
def test_a_folded_strength_travels(strength: float, made: Path, tmp_path: Path) -> None:
    model = models.backbone("toy", made)
    adapter = build(model, move=0.2)
    with adapter.scaled(strength):
        expected = predict(model, *TIMES)
    with adapter.folded(strength):
        path = files.save(model, adapter, tmp_path / "a.safetensors")
    fresh = models.backbone("toy", made)
    files.load(fresh, path)
    torch.testing.assert_close(predict(fresh, *TIMES), expected)


@pytest.mark.parametrize("variant", ["full", "vanilla"])
@pytest.mark.parametrize("name", ["tiny-sd-eps", "tiny-sd3"])
def test_a_stock_pipeline_sees_the_whole_rank(name: str, variant: str, made: Path, tmp_path: Path) -> None:
    model = models.backbone(name, made)
    adapter = build(model, move=0.2, variant=variant)
    path, *others = files.exports(model, adapter, tmp_path, {})
    with adapter.as_stock():
        expected = predict(model, *TIMES)
    for one in (path, *others):
        fresh = models.backbone(name, made)
        files.into_stock(fresh.pipeline(), fresh, one)
        torch.testing.assert_close(predict(fresh, *TIMES), expected, rtol=1e-4, atol=1e-5)
        assert "schedule" in header(one)["studio.note"]
    assert [one.name for one in others] == (["adapter.kohya.safetensors"] if name == "tiny-sd-eps" else [])


@pytest.mark.parametrize("variant", ["full", "vanilla"])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_fused_at_a_rank(rank: int, variant: str, made: Path, tmp_path: Path) -> None:
    """A plain LoRA: the prefix of the interleaved pairs, at every timestep."""
    model = models.backbone("toy", made)
    adapter = build(model, move=0.2, variant=variant, export_rank=rank, targets="attention+conv")
    path = files.exports(model, adapter, tmp_path, {"trigger": "sks"})[-1]
    assert path.name == f"adapter.rank-{rank}.safetensors"
    with adapter.at_rank(rank):
        expected = predict(model, *TIMES)
    fresh = models.backbone("toy", made)
    plain = files.load(fresh, path)
    assert plain.kind == "lora"
    torch.testing.assert_close(predict(fresh, *TIMES), expected, rtol=1e-5, atol=1e-5)
    pairs, tensors = (2 if variant == "full" else 1), load_file(tmp_path / "adapter.safetensors")
    layer = model.net.get_submodule("attn1.to_q")
    down, up = (tensors[f"unet.attn1.to_q.lora_{kind}.weight"] for kind in "AB")
    delta = up[:, : pairs * rank] @ down[: pairs * rank]
    with adapter.at_rank(rank), torch.no_grad():
        torch.testing.assert_close(layer(torch.eye(16)) - layer.base_layer(torch.eye(16)), delta.T, rtol=0, atol=1e-6)


def test_a_rank_wider_than_the_layers_travels(made: Path, tmp_path: Path) -> None:
    model = models.backbone("toy", made)
    adapter = build(model, move=0.2, rank=40, r_min=4, export_rank=40)
    path, *_, whole = files.exports(model, adapter, tmp_path, {})
    fresh, plain = models.backbone("toy", made), models.backbone("toy", made)
    files.load(fresh, path)
    assert torch.equal(predict(fresh, *TIMES), predict(model, *TIMES))
    files.load(plain, whole)
    with adapter.as_stock():
        torch.testing.assert_close(predict(plain, *TIMES), predict(model, *TIMES), rtol=1e-5, atol=1e-5)


def test_balanced_factors_keep_their_precision_where_pairs_cancel() -> None:
    torch.manual_seed(0)
    base_down, base_up = torch.randn(4, 64), torch.randn(32, 4)
    down = torch.stack([base_down + 1e-3 * torch.randn(4, 64), base_down], 1).flatten(0, 1)
    up = torch.stack([base_up, -base_up], 2).flatten(1, 2)
    exact = up.double() @ down.double()

    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((b.bfloat16().double() @ a.bfloat16().double() - exact).norm() / exact.norm())

    a, b = tlora_files.balanced(down, up)
    assert error(a, b) < 0.01 < 0.5 < error(down, up)


def spoil(path: Path, what: str) -> None:
    """One thing wrong in a good file."""
    tensors, about = load_file(path), header(path)
    first = next(name for name in tensors if name.endswith("lora_A.weight"))
    if what == "odd rank":
        for name in (first, first.replace("lora_A", "lora_B")):
            tensors[name] = tensors[name].narrow(0 if "lora_A" in name else 1, 0, 7)
    if what == "rank":
        about["studio.adapter"] = tlora.Config(rank=2).model_dump_json()
    if what == "no schedule":
        del about["tlora"]
    if what == "nonsense":
        about["tlora"] = '{"T": "a thousand"}'
    if what == "settings":
        about["studio.adapter"] = "{}}"
    if what == "lacking":
        del tensors[first.replace("lora_A", "lora_B")]
    writing.write(tensors, path, about)


@pytest.mark.parametrize("what", ["odd rank", "rank", "no schedule", "nonsense", "settings", "lacking"])
def test_a_damaged_file_is_refused_in_one_line(what: str, made: Path, tmp_path: Path) -> None:
    model = models.backbone("toy", made)
    path = files.save(model, build(model), tmp_path / "wrong.safetensors")
    spoil(path, what)
    fresh: Backbone = models.backbone("toy", made)
    with pytest.raises(ModelError, match=r"wrong\.safetensors") as caught:
        files.load(fresh, path)
    assert "\n" not in str(caught.value)
    assert fresh.adapter is None


def test_a_checkpoint_holds_what_is_subtracted(made: Path) -> None:
    """Whatever another machine would draw, resuming goes on from the very same start."""
    model, other = models.backbone("toy", made), models.backbone("toy", made)
    adapter, another = build(model, seed=1, move=0.2), build(other, seed=9)
    before: dict[str, Any] = {name: tensor.clone() for name, tensor in adapter.frozen().items()}
    assert not set(before) & set(adapter.named_parameters())
    another.load_state_dict(adapter.state_dict())
    assert torch.equal(predict(other, *TIMES), predict(model, *TIMES))
    for parameter in adapter.parameters():
        parameter.data += 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.frozen().items())
    with pytest.raises(ModelError, match="lora_base_A"):
        another.load_state_dict({name: t for name, t in adapter.state_dict().items() if "base" not in name})
