"""LoRA files: diffusers' format with its metadata, kohya's for other tools, and reading both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.pipelines.adapters import targets, writing
from studio.pipelines.adapters.lora import LoRA
from studio.pipelines.adapters.reading import HEADER, MAGNITUDE, OLD, OURS, header, load
from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

__all__ = ["exports", "header", "kohya_problem", "load", "save", "save_kohya"]

NAME, KOHYA = "adapter.safetensors", "adapter.kohya.safetensors"


def exports(model: Backbone, adapter: LoRA, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """The diffusers file, and the kohya file where this adapter has one."""
    written = [save(model, adapter, folder / NAME, about)]
    if not kohya_problem(model, adapter):
        written.append(save_kohya(model, adapter, folder / KOHYA, about))
    return written


def save(model: Backbone, adapter: LoRA, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """One safetensors file that a stock pipeline's `load_lora_weights` reads, alpha included; its path.

    metadata: further header fields. Written aside and renamed: a file of that name is whole.
    """
    tensors: dict[str, Tensor] = {}
    for part in adapter.layers:
        inside = {
            _old_style(part, name.removeprefix(f"{part}.")): tensor
            for name, tensor in adapter.state_dict().items()
            if name.startswith(f"{part}.")
        }
        tensors |= {f"{part}.{name}": tensor for name, tensor in _stock_style(part, inside).items()}
    header = {
        HEADER: json.dumps(_peft_header(adapter), sort_keys=True),
        OURS: adapter.config.model_dump_json(),
    }
    return writing.write(tensors, path, {"format": "pt", **header, **(metadata or {})})


def _stock_style(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Text encoders' keys as diffusers' own scripts write them, the network's in peft's style."""
    from diffusers.utils import convert_state_dict_to_diffusers

    if part.startswith("text_encoder"):
        # transformers 5 finds a DoRA magnitude only with the .weight that peft leaves out
        return convert_state_dict_to_diffusers(tensors)
    return {name.replace(f"{MAGNITUDE}.weight", MAGNITUDE): tensor for name, tensor in tensors.items()}


def _old_style(part: str, name: str) -> str:
    return name if not part.startswith("text_encoder") or name.startswith(OLD) else OLD + name


def _peft_header(adapter: LoRA) -> dict[str, Any]:
    """peft's settings of each part, by `part.setting`; only settings that every peft version knows."""
    header: dict[str, Any] = {}
    for part, layers in adapter.layers.items():
        rank, alpha = next(iter(layers.values()))
        anchor, names = _pattern_names(part, layers)
        settings = {
            "r": rank,
            "lora_alpha": _number(alpha),
            "rank_pattern": {f"{anchor}{n}": r for n, (r, _) in zip(names, layers.values(), strict=True) if r != rank},
            "alpha_pattern": {
                f"{anchor}{n}": _number(a) for n, (_, a) in zip(names, layers.values(), strict=True) if a != alpha
            },
            "target_modules": names,
            "use_rslora": adapter.config.rslora,
            "use_dora": adapter.config.dora,
        }
        header |= {f"{part}.{key}": value for key, value in settings.items()}
    return header


def _pattern_names(part: str, layers: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The anchor and names for peft's patterns; CLIP's match with and without its old prefix."""
    if part.startswith("text_encoder"):
        return "", [name.removeprefix(OLD) for name in layers]
    return "^", list(layers)


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def kohya_problem(model: Backbone, adapter: LoRA) -> str:
    """Why this adapter has no kohya file; empty when it has one."""
    if targets.part(model) != "unet":
        return f"kohya files are written for UNets, not for a {targets.part(model)}"
    return "a DoRA adapter loses its magnitudes in a kohya file" if adapter.config.dora else ""


def save_kohya(model: Backbone, adapter: LoRA, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """The same adapter as `lora_unet_...lora_down.weight` with `.alpha`, for kohya, ComfyUI and A1111.

    alpha is written so that alpha / rank is the strength, also with rsLoRA. Raises UsageError where
    `kohya_problem` says so.
    """
    if problem := kohya_problem(model, adapter):
        raise UsageError(f"{problem}: use the diffusers file instead")
    prefixes, scales, state = _kohya_prefixes(adapter), adapter.scales(), adapter.state_dict()
    tensors: dict[str, Tensor] = {}
    for part, layers in adapter.layers.items():
        for name, (rank, _) in layers.items():
            key = prefixes[part] + _old_style(part, name).replace(".", "_")
            tensors[f"{key}.lora_down.weight"] = state[f"{part}.{name}.lora_A.weight"]
            tensors[f"{key}.lora_up.weight"] = state[f"{part}.{name}.lora_B.weight"]
            tensors[f"{key}.alpha"] = torch.tensor(scales[f"{part}.{name}"] * rank)
    sizes = {"ss_network_dim": str(adapter.config.rank), "ss_network_module": "networks.lora"}
    return writing.write(tensors, path, {"format": "pt", **sizes, **(metadata or {})})


def _kohya_prefixes(adapter: LoRA) -> dict[str, str]:
    """kohya's name for each part: one text encoder is te, two are te1 and te2."""
    two = "text_encoder_2" in adapter.model.text_encoders
    first = "lora_te1_" if two else "lora_te_"
    return {"unet": "lora_unet_", "text_encoder": first, "text_encoder_2": "lora_te2_"}
