"""LoRA: exact off, exact files (alpha included), honest errors."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.pipelines.adapters import files, lora, lora_files, writing
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Backbone
from tests import models
from tests.models import BACKBONES

STOCK = ("tiny-sd-eps", "tiny-sd-v", "tiny-sd3")
UNETS = STOCK[:2]
LOADED: dict[Any, Backbone] = {}
PROMPTS = ["a red cat", "the dog on the left"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def backbone(name: str, folder: Path, **options: Any) -> Backbone:
    """A fresh model; copied from memory, which is faster than from disk."""
    key = (name, folder, *options.items())
    if key not in LOADED:
        LOADED[key] = models.backbone(name, folder, **options)
    return copy.deepcopy(LOADED[key])


def output(model: Backbone) -> Tensor:
    """What the model says about fixed noise: prompts, network, everything an adapter may touch."""
    shape = (2, *model.latent_shape(model.pixels, model.pixels))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.predict(x, torch.tensor([100, 900]), model.embed(PROMPTS))


def moved(model: Backbone, **settings: Any) -> lora.LoRA:
    """An adapter with every weight away from its start."""
    torch.manual_seed(2)
    adapter = lora.Config(**settings).build(model)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return adapter


def with_text(name: str) -> bool:
    return name not in ("toy",)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("targets", ["attention", "all"])
def test_a_fresh_adapter_is_the_base_model_bit_for_bit(name: str, targets: str, made: Path) -> None:
    model = backbone(name, made)
    base = output(model)
    adapter = lora.Config(targets=targets, rank=2, text_encoder=with_text(name)).build(model)
    assert torch.equal(output(model), base)
    assert adapter.identity_at_init


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("variant", [{}, {"dora": True}, {"rslora": True, "alpha": 5.0}])
def test_off_is_the_base_model_bit_for_bit(name: str, variant: dict[str, Any], made: Path) -> None:
    model = backbone(name, made)
    base, fingerprint = output(model), model.fingerprint()
    adapter = moved(model, rank=2, text_encoder=with_text(name), **variant)
    trained = output(model)
    assert not torch.equal(trained, base)
    with adapter.off():
        assert torch.equal(output(model), base)
        with adapter.off(), adapter.scaled(0.5):
            assert torch.equal(output(model), base)
        assert torch.equal(output(model), base)
        assert not adapter.enabled
    assert torch.equal(output(model), trained)
    with pytest.raises(KeyError), adapter.off():
        raise KeyError
    assert torch.equal(output(model), trained)
    assert all(p.requires_grad for p in adapter.parameters())
    assert model.fingerprint() == fingerprint


@pytest.mark.parametrize("name", BACKBONES)
def test_remove_leaves_the_base_model(name: str, made: Path) -> None:
    model = backbone(name, made)
    base, names = output(model), [n for n, _ in model.net.named_modules()]
    adapter = moved(model, rank=2, targets="all", text_encoder=with_text(name))
    adapter.remove()
    assert torch.equal(output(model), base)
    assert model.adapter is None
    assert [n for n, _ in model.net.named_modules()] == names
    moved(model, rank=2)


def test_strength_is_linear_and_zero_is_exact(made: Path) -> None:
    model = backbone("toy", made)
    layer = model.net.get_submodule("attn1.to_q")
    x = torch.randn(3, 16)
    base = layer(x)
    adapter = moved(model, rank=2)
    layer = model.net.get_submodule("attn1.to_q")
    delta = layer(x) - base
    for strength in (-1.0, 0.5, 2.0):
        with adapter.scaled(strength):
            torch.testing.assert_close(layer(x), base + strength * delta)
    with adapter.scaled(0.5), adapter.scaled(0.5):
        torch.testing.assert_close(layer(x), base + 0.25 * delta)
    with adapter.scaled(0.5):
        with adapter.scaled(0.0):
            assert torch.equal(layer(x), base)
        # a zero strength must not reset the strength around it
        torch.testing.assert_close(layer(x), base + 0.5 * delta)


@pytest.mark.parametrize("name", BACKBONES)
def test_what_learns_is_float32_named_once_and_only_lora(name: str, made: Path) -> None:
    model = backbone(name, made, dtype=torch.bfloat16)
    adapter = lora.Config(rank=2, text_encoder=with_text(name)).build(model)
    named = adapter.named_parameters()
    assert {p.dtype for p in named.values()} == {torch.float32}
    assert all(".lora_A." in n or ".lora_B." in n for n in named)
    assert len({id(p) for p in named.values()}) == len(named) == len(adapter.parameters())
    learning = [p for root in (model.net, *model.text_encoders.values()) for p in root.parameters() if p.requires_grad]
    assert {id(p) for p in learning} == {id(p) for p in named.values()}
    assert list(lora_names(backbone(name, made), with_text(name))) == list(named)


def lora_names(model: Backbone, text: bool) -> dict[str, Any]:
    return lora.Config(rank=2, text_encoder=text).build(model).named_parameters()


def test_text_encoders_have_their_own_learning_rate(made: Path) -> None:
    adapter = lora.Config(rank=2, text_encoder=True, text_encoder_lr=1e-6).build(backbone("tiny-sd3", made))
    groups = adapter.groups(1e-4)
    assert [group["lr"] for group in groups] == [1e-4, 1e-6]
    assert sum(len(group["params"]) for group in groups) == len(adapter.parameters())
    assert adapter.trains_text


VARIANTS = (
    {"rank": 4, "alpha": 1.5},
    {"rank": 2, "alpha": 4.0, "targets": "attention+ff"},
    {"rank": 2, "alpha": 1.0, "targets": "all"},
    {"rank": 4, "alpha": 2.0, "rslora": True},
    {"rank": 4, "alpha": 2.0, "dora": True},
)


def from_stock(model: Backbone, path: Path, made: Path, name: str) -> Backbone:
    """A fresh model whose stock pipeline loaded the file by itself."""
    fresh = backbone(name, made)
    fresh.pipeline().load_lora_weights(path.parent, weight_name=path.name)
    return fresh


@pytest.mark.parametrize(
    ("name", "variant"),
    [*((name, VARIANTS[4]) for name in STOCK), *((n, v) for n in STOCK[::2] for v in VARIANTS[:4])],
)
def test_the_file_is_exact_in_a_stock_pipeline(name: str, variant: dict[str, Any], made: Path, tmp_path: Path) -> None:
    model = backbone(name, made)
    adapter = moved(model, text_encoder=True, **variant)
    path = files.save(model, adapter, tmp_path / "adapter.safetensors", {"trigger": "sks"})
    fresh = from_stock(model, path, made, name)
    assert torch.equal(output(fresh), output(model))
    with safe_open(path, "pt") as file:
        assert file.metadata()["trigger"] == "sks"


@pytest.mark.parametrize(
    ("name", "variant"), [*((name, VARIANTS[0]) for name in UNETS), *((UNETS[0], v) for v in VARIANTS[1:4])]
)
def test_the_kohya_file_is_exact_in_a_stock_pipeline(
    name: str, variant: dict[str, Any], made: Path, tmp_path: Path
) -> None:
    model = backbone(name, made)
    adapter = moved(model, text_encoder=True, **variant)
    path = lora_files.save_kohya(model, adapter, tmp_path / "adapter.kohya.safetensors")
    torch.testing.assert_close(output(from_stock(model, path, made, name)), output(model), rtol=1e-5, atol=1e-6)
    keys = load_file(path)
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_self_attn_q_proj.") for key in keys)
    fresh = backbone(name, made)
    files.load(fresh, path)
    torch.testing.assert_close(output(fresh), output(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "variant"),
    [*((name, VARIANTS[0]) for name in BACKBONES), *(("tiny-sd-eps", v) for v in VARIANTS)],
)
def test_load_gives_the_same_adapter_back(name: str, variant: dict[str, Any], made: Path, tmp_path: Path) -> None:
    model = backbone(name, made)
    adapter = moved(model, text_encoder=with_text(name), **variant)
    path = files.save(model, adapter, tmp_path / "adapter.safetensors")
    fresh = backbone(name, made)
    again = files.load(fresh, path)
    assert torch.equal(output(fresh), output(model))
    assert (again.config, again.layers) == (adapter.config, adapter.layers)
    with again.off():
        assert torch.equal(output(fresh), output(backbone(name, made)))


@pytest.mark.parametrize("name", STOCK)
def test_text_encoder_keys_are_in_the_old_style(name: str, made: Path, tmp_path: Path) -> None:
    model = backbone(name, made)
    path = files.save(model, moved(model, rank=2, text_encoder=True), tmp_path / "a.safetensors")
    text = [key for key in load_file(path) if key.startswith("text_encoder")]
    assert text
    assert all(key.partition(".")[2].startswith("text_model.encoder.layers.") for key in text)


@pytest.mark.parametrize("name", STOCK)
def test_fused_and_unfused_agree(name: str, made: Path, tmp_path: Path) -> None:
    model = backbone(name, made)
    adapter = moved(model, rank=4, alpha=2.0)
    path = files.save(model, adapter, tmp_path / "a.safetensors")
    fresh = backbone(name, made)
    before = {n: p.clone() for n, p in fresh.net.state_dict().items()}
    pipe = fresh.pipeline()
    pipe.load_lora_weights(path.parent, weight_name=path.name)
    pipe.fuse_lora()
    torch.testing.assert_close(output(fresh), output(model), rtol=1e-5, atol=1e-5)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    for key, value in fresh.net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-6, atol=1e-6)


def test_a_foreign_file_without_alpha_counts_as_alpha_equals_rank(made: Path, tmp_path: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    adapter = moved(model, rank=4)
    bare = {key: value.clone() for key, value in adapter.state_dict().items()}
    bare["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight"] = bare.pop(
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
    )
    bare["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight"] = bare.pop(
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"
    )
    save_file(bare, tmp_path / "foreign.safetensors")
    fresh = backbone("tiny-sd-eps", made)
    files.load(fresh, tmp_path / "foreign.safetensors")
    assert torch.equal(output(fresh), output(model))


def test_ranks_and_alphas_may_differ_by_layer(made: Path, tmp_path: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    names = lora.targets.find(model.net, "attention")
    layers = {"unet": {name: (1 + i % 3, 2.0 + i % 2) for i, name in enumerate(names)}}
    adapter = lora.LoRA(model, layers, lora.Config(rank=2))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.1)
    path = files.save(model, adapter, tmp_path / "a.safetensors")
    assert torch.equal(output(from_stock(model, path, made, "tiny-sd-eps")), output(model))
    fresh = backbone("tiny-sd-eps", made)
    assert files.load(fresh, path).layers == layers
    assert torch.equal(output(fresh), output(model))


@pytest.mark.parametrize("content", ["truncated", "text", "other family", "other size", "no lora", "missing"])
def test_a_wrong_file_is_one_line_that_names_it(content: str, made: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    donor = backbone("tiny-sd3" if content == "other family" else "tiny-sd-eps", made)
    files.save(donor, moved(donor, rank=2), path)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if content == "text":
        path.write_text("hello")
    if content == "other size":
        save_file({key: torch.cat([value, value]) for key, value in load_file(path).items()}, path)
    if content == "no lora":
        save_file({"unet.conv_in.weight": torch.zeros(1)}, path)
    if content == "missing":
        path.unlink()
    model = backbone("tiny-sd-eps", made)
    base = output(model)
    with pytest.raises(ModelError, match=r"wrong\.safetensors") as caught:
        files.load(model, path)
    assert "\n" not in str(caught.value)
    assert model.adapter is None
    assert torch.equal(output(model), base)


def test_nothing_half_written_is_left(made: Path, tmp_path: Path) -> None:
    model = backbone("toy", made)
    adapter = moved(model, rank=2)
    with pytest.raises(Exception, match="str"):
        files.save(model, adapter, tmp_path / "a.safetensors", {"trigger": 3})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_a_rank_larger_than_a_layer_is_refused_by_name(made: Path) -> None:
    model = backbone("toy", made)
    with pytest.raises(UsageError, match=r"17 is larger than layer unet\.attn1\.to_q \(16 -> 16\)"):
        lora.Config(rank=17).build(model)
    assert model.adapter is None


@pytest.mark.parametrize("pattern", ["atention", "nosuch", "(", "to_x,to_y"])
def test_a_pattern_that_matches_nothing_says_what_exists(pattern: str, made: Path) -> None:
    with pytest.raises(UsageError, match=r"adapter\.targets") as caught:
        lora.Config(targets=pattern, rank=1).build(backbone("toy", made))
    assert pattern == "(" or "to_q" in str(caught.value)


def test_patterns(made: Path) -> None:
    net = backbone("tiny-sd-eps", made).net
    find = lora.targets.find
    assert {name.rpartition("attn")[2][2:] for name in find(net, "attention")} == {
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
    }
    assert set(find(net, "attention+ff")) == set(find(net, "attention")) | set(find(net, "ff"))
    assert all(name.endswith(("to_q", "to_v")) for name in find(net, "to_q, to_v"))
    assert find(net, r"mid_block\..*attn2\.to_k") == ["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"]
    assert not {"conv_in", "conv_out"} & set(find(net, "all"))
    assert any("resnets" in name for name in find(net, "conv"))


def test_no_second_adapter_and_no_text_encoder_to_teach(made: Path) -> None:
    model = backbone("toy", made)
    with pytest.raises(UsageError, match="text_encoder"):
        lora.Config(rank=2, text_encoder=True).build(model)
    moved(model, rank=2)
    with pytest.raises(UsageError, match="remove"):
        lora.Config(rank=2).build(model)


def test_state_of_another_adapter_is_refused(made: Path) -> None:
    state = moved(backbone("toy", made), rank=2).state_dict()
    with pytest.raises(ModelError, match=r"lora_A"):
        moved(backbone("toy", made), rank=4).load_state_dict(state)


def test_dropout_is_on_only_in_training(made: Path) -> None:
    model = backbone("toy", made)
    adapter = moved(model, rank=2, dropout=0.5)
    assert torch.equal(output(model), output(model))
    adapter.train(True)
    assert not torch.equal(output(model), output(model))


def test_the_header_knows_only_what_every_peft_knows(made: Path, tmp_path: Path) -> None:
    model = backbone("tiny-sd-eps", made)
    path = files.save(model, moved(model, rank=4, alpha=1.5), tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["lora_adapter_metadata"])
    assert header["unet.lora_alpha"] == 1.5
    assert {key.rpartition(".")[2] for key in header} <= {
        "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora", "use_dora",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["thora", "reading", "writing", "../lora", "os.path"])
def test_a_file_of_an_unknown_kind_is_refused(kind: str, made: Path, tmp_path: Path) -> None:
    path = writing.write({"x": torch.ones(1)}, tmp_path / "adapter.safetensors", {"studio.kind": kind})
    with pytest.raises(ModelError, match="which this version does not know"):
        files.load(backbone("tiny-sd-eps", made), path)
