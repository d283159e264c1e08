"""Laws of loading: every form of a model loads; a broken one is refused in a line that names the file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from studio.pipelines import assets, backbone, families, hub
from studio.pipelines.errors import ModelError, StudioError, UsageError
from studio.pipelines.sd import SD
from studio.pipelines.toy import Toy
from tests.models import tiny_sd, tiny_sd3


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture
def broken(sd: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(sd, tmp_path / "broken"))


def refused(model: Path | str, error: type[StudioError] = ModelError) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(error) as refusal:
        backbone.load(str(model))
    line = str(refusal.value)
    assert refusal.value.exit_code == error.exit_code
    assert "\n" not in line
    return line


def test_known_models_load(sd: Path) -> None:
    assert isinstance(backbone.load("toy"), Toy)
    assert isinstance(backbone.load(str(sd)), SD)
    assert backbone.load(str(sd)).fingerprint() == backbone.load(str(sd)).fingerprint()
    assert backbone.load(str(sd), dtype=torch.bfloat16).vae.dtype == torch.bfloat16


def test_what_is_no_model_is_a_wrong_word(tmp_path: Path) -> None:
    for name in ("nothing", "nothing.safetensors", "a/b/c", "owner/nothing.safetensors", "~/nothing", "\0", "x" * 5000):
        assert "no such folder or file" in refused(tmp_path / name if name == "nothing" else name, UsageError)
    assert "model_index.json is missing" in refused(tmp_path, UsageError)
    (tmp_path / "cat.png").write_bytes(b"a picture")
    (tmp_path / "pictures").mkdir()
    assert "no model" in refused(tmp_path, UsageError)
    assert "give a .safetensors file" in refused(tmp_path / "cat.png", UsageError)


def test_damaged_files_of_a_model_are_a_matter_of_the_model(broken: Path, tmp_path: Path) -> None:
    (broken / "model_index.json").unlink()
    assert "model_index.json is missing" in refused(broken)
    (tmp_path / "model_index.json").write_text("{half a json")
    assert "damaged JSON" in refused(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "MysteryPipeline"}))
    line = refused(tmp_path)
    assert "MysteryPipeline" in line
    assert "StableDiffusionPipeline" in line


def test_missing_embedded_model_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "assets_folder", lambda: tmp_path)
    assert "python -m studio.world build" in refused("embedded")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_broken_weights_are_named(part: str, broken: Path) -> None:
    weights = next((broken / part).glob("*.safetensors"))
    whole, tensors = weights.read_bytes(), load(weights.read_bytes())
    weights.write_bytes(whole[: len(whole) // 2])
    assert str(weights) in refused(broken)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, weights, metadata={"format": "pt"})
    assert str(broken / part) in refused(broken)
    weights.unlink()
    assert str(broken / part) in refused(broken)
    shutil.rmtree(broken / part)
    assert f"{part} is missing" in refused(broken)


def test_missing_shard_is_named(broken: Path) -> None:
    index = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    path = broken / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert "00002-of-00002.safetensors: missing" in refused(broken)


def test_broken_configs_are_refused(broken: Path) -> None:
    (broken / "unet" / "config.json").write_text("{")
    assert str(broken) in refused(broken)


def test_weights_of_another_shape_are_refused(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load(weights.read_bytes())
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:8].contiguous()
    save_file(tensors, weights, metadata={"format": "pt"})
    assert str(broken) in refused(broken)


def test_an_unreachable_hub_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest blocks sockets, so asking the hub fails; a hub that never answers is given up after PATIENCE."""
    began = time.monotonic()
    hub.reachable.cache_clear()
    assert "not cached" in refused("nobody/no-such-model")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    monkeypatch.setattr(hub, "_ask", lambda: bool(time.sleep(5)))
    hub.reachable.cache_clear()
    assert not hub.reachable()
    hub.reachable.cache_clear()
    assert time.monotonic() - began < 4


def test_a_cached_hub_model_needs_no_network(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "models--someone--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(sd, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert backbone.load("someone/tiny").fingerprint() == backbone.load(str(sd)).fingerprint()


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = [
    (r"time_embedding\.linear_1", "time_embed.0"),
    (r"time_embedding\.linear_2", "time_embed.2"),
    (r"conv_in", "input_blocks.0.0"),
    (r"conv_norm_out", "out.0"),
    (r"conv_out", "out.2"),
    (r"down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
    (r"down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
    (r"down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
    (r"down_blocks\.1\.attentions\.0", "input_blocks.3.1"),
    (r"mid_block\.resnets\.0", "middle_block.0"),
    (r"mid_block\.attentions\.0", "middle_block.1"),
    (r"mid_block\.resnets\.1", "middle_block.2"),
    (r"up_blocks\.0\.resnets\.(\d)", r"output_blocks.\1.0"),
    (r"up_blocks\.0\.attentions\.(\d)", r"output_blocks.\1.1"),
    (r"up_blocks\.0\.upsamplers\.0", "output_blocks.1.2"),
    (r"up_blocks\.1\.resnets\.0", "output_blocks.2.0"),
    (r"up_blocks\.1\.resnets\.1", "output_blocks.3.0"),
]
VAE = [
    (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.0\.resnets\.(\d)", r"up.1.block.\1"),
    (r"up_blocks\.1\.resnets\.(\d)", r"up.0.block.\1"),
    (r"up_blocks\.0\.upsamplers\.0", "up.1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"group_norm", "norm"),
    (r"to_([qkv])", r"\1"),
    (r"to_out\.0", "proj_out"),
]


def renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for old, new in rules:
        name = re.sub(old, new, name)
    return name


def original_layout(model: Any, path: Path) -> Path:
    """The model as one file in the layout of the first Stable Diffusion release."""
    tensors = {}
    for name, tensor in model.net.state_dict().items():
        inner = renamed(name, UNET)
        if ".resnets." in name:
            inner = renamed(inner, [(rf"\.{old}\.", f".{new}.") for old, new in RESNET.items()])
        tensors[f"model.diffusion_model.{inner}"] = tensor
    for name, tensor in model.vae.state_dict().items():
        flat = ".attentions." in name and tensor.ndim == 2
        tensors[f"first_stage_model.{renamed(name, VAE)}"] = tensor[..., None, None] if flat else tensor
    for name, tensor in model.text_encoders["text_encoder"].state_dict().items():
        inner = name.removeprefix("text_model.")
        tensors[f"cond_stage_model.transformer.text_model.{inner}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def test_single_file_round_trip(sd: Path, tmp_path: Path) -> None:
    model = backbone.load(str(sd))
    file = original_layout(model, tmp_path / "one.safetensors")
    assert "put the model's diffusers folder" in refused(file)
    configs = shutil.copytree(sd, tmp_path / "one", ignore=shutil.ignore_patterns("*.safetensors"))
    assert configs.is_dir()
    again = backbone.load(str(file))
    assert again.fingerprint() == model.fingerprint()
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([500])
    with torch.no_grad():
        said, before = (m.predict(x, t, m.embed(["a cat"])) for m in (again, model))
    torch.testing.assert_close(said, before)


def test_bad_single_files_are_refused(sd: Path, tmp_path: Path) -> None:
    old, foreign, cut = (tmp_path / name for name in ("model.ckpt", "lora.safetensors", "cut.safetensors"))
    old.write_bytes(b"pickle")
    assert "pickled weights are not read" in refused(old)
    save_file({"lora.down": torch.zeros(1)}, foreign)
    assert "no known model family" in refused(foreign)
    cut.write_bytes(foreign.read_bytes()[:-2])
    assert str(cut) in refused(cut)


def test_families_are_read_without_importing_them() -> None:
    code = (
        "import sys; from studio.pipelines import assets, families; f = families.ours(); "
        "assert {'toy', 'sd', 'sd3'} <= {x.module.rsplit('.')[-1] for x in f}; "
        "assert assets.recommended('toy') == {}; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_a_plug_in_family_loads_and_a_broken_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = ModuleType("stranger_backbone")
    plugin.__dict__.update(CLASSES=("StrangerPipeline",), load=lambda *arguments: arguments)
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    points = [EntryPoint(name, name, "studio.backbones") for name in ("stranger_backbone", "no_such_module")]
    monkeypatch.setattr(families, "entry_points", lambda group: points)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StrangerPipeline"}))
    assert backbone.load(str(tmp_path))[0] == tmp_path  # type: ignore[index]
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OtherPipeline"}))
    assert "plug-in no_such_module" in refused(tmp_path)


def test_recommended_settings(tmp_path: Path) -> None:
    assert assets.recommended(str(tmp_path)) == {}
    (tmp_path / "studio.toml").write_text("[settings]\nlr = 1e-3  # found best\n[settings.adapter]\nrank = 16\n")
    assert assets.recommended(str(tmp_path)) == {"settings": {"lr": 1e-3, "adapter": {"rank": 16}}}
    (tmp_path / "studio.toml").write_text("lr = = 3")
    with pytest.raises(ModelError, match="not valid TOML"):
        assets.recommended(str(tmp_path))


def test_sd3_needs_its_own_scheduler(tmp_path: Path) -> None:
    folder = tiny_sd3(tmp_path / "sd3", t5=False)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"invert_sigmas": True}))
    assert "FlowMatchEulerDiscreteScheduler" in refused(folder)
