"""SaRA's files read: every tensor checked against the model, and the model against the file's base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from studio.pipelines.adapters import targets
from studio.pipelines.adapters.sara import Config, SaRA
from studio.pipelines.confine import permitted
from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import Backbone
from studio.pipelines.weights import digest, frozen_state

KIND, OURS, ABOUT, VERSION = "studio.kind", "studio.adapter", "studio.sara", 1
# what the weights of one base model can be rounded to: a run in one precision, a load in another
ROUNDED = {
    torch.float64: (torch.float64, torch.float32, torch.float16, torch.bfloat16),
    torch.float32: (torch.float32, torch.float16, torch.bfloat16),
    torch.float16: (torch.float16, torch.bfloat16),
    torch.bfloat16: (torch.bfloat16,),
}
Change = dict[str, tuple[Tensor, Tensor]]
"""`part.parameter` -> ascending flat indices, int64, and how much each entry changes, float64."""


@dataclass(frozen=True)
class File:
    """What a file holds, checked against a model: indices and values in float64, by `part.parameter`."""

    values: Change
    config: Config
    threshold: float


def read(model: Backbone, path: Path) -> File:
    """The file, when it is whole and made for this model. Raises ModelError."""
    tensors, header = _open(path)
    if header.get(KIND) != SaRA.kind:
        raise ModelError(f"{path}: is not a SaRA file")
    about, config = _about(path, header)
    named = dict(model.net.named_parameters())
    part = f"{targets.part(model)}."
    names = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
    values: Change = {}
    for name in names:
        if not name.startswith(part) or name.removeprefix(part) not in named:
            raise ModelError(f"{path}: this model has no {name[:100]!a}; use the base model the file was trained on")
        values[name] = _entries(path, name, named[name.removeprefix(part)], tensors)
    if len(tensors) != 2 * len(names) or not names:
        raise ModelError(f"{path}: has tensors that no SaRA file has, or none; save or download the file again")
    _check_base(model, path, about)
    for name, (index, found) in values.items():
        if f"{name}.delta" in tensors:
            values[name] = index, base_of(model, name)[index] + found
    return File(values, config, float("inf") if about["threshold"] is None else about["threshold"])


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open

    permitted(path, "the adapter", ModelError)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such adapter file")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # besides SafetensorError and OSError, torch's own for odd types and sizes
        raise ModelError(f"{path}: not a readable safetensors file ({' '.join(str(error).split())[:200]})") from None


def _about(path: Path, header: Mapping[str, str]) -> tuple[dict[str, Any], Config]:
    """What the header says: our own fields, and the settings it was trained with."""
    try:
        about, config = json.loads(header.get(ABOUT, "")), Config.model_validate_json(header.get(OURS, ""))
        base, threshold = about["base"], about["threshold"]
        sound = isinstance(base, dict) and (threshold is None or 0 <= float(threshold) < 1e9)
    except (ValueError, ValidationError, RecursionError, TypeError, KeyError):
        raise ModelError(f"{path}: its header is damaged; save or download the file again") from None
    if about.get("version") != VERSION:
        raise ModelError(
            f"{path}: version {str(about.get('version'))[:20]!a} of the format; this studio knows {VERSION}"
        )
    if not sound:
        raise ModelError(f"{path}: its header is damaged; save or download the file again")
    return about, config


def _entries(path: Path, name: str, weight: nn.Parameter, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Indices and values (or changes) of one tensor; ModelError unless they fit it."""
    index = tensors.get(f"{name}.indices")
    found = tensors.get(f"{name}.values", tensors.get(f"{name}.delta"))
    problem = ""
    if index is None or found is None or index.dtype not in (torch.int32, torch.int64):
        problem = "lacks its indices or its values"
    elif index.ndim != 1 or index.shape != found.shape or not len(index) or not found.is_floating_point():
        problem = "has not one number for each index"
    elif index[0] < 0 or index[-1] >= weight.numel() or bool((index.long().diff() <= 0).any()):
        problem = f"has indices that are not in order, or outside of its {weight.numel()} entries"
    elif not bool(found.double().isfinite().all()):
        problem = "holds what is not finite"
    if problem or index is None or found is None:
        raise ModelError(f"{path}: {name[:100]!a} {problem}; save or download the file again")
    return index.long(), found.double()


def _check_base(model: Backbone, path: Path, about: Mapping[str, Any]) -> None:
    """ModelError unless the model's weights, or what they round to, are those of the header."""
    if model.adapter is not None:
        raise ModelError(f"{path}: the model already carries an adapter: remove it first")
    base, own = about["base"], name_of(model.dtype)
    dtype = next((one for one in ROUNDED[model.dtype] if name_of(one) in base), None)
    if dtype is None or base_hash(model, dtype) != base[name_of(dtype)]:
        made = str(about.get("precision"))[:20]
        doubt = "" if made == own else f", or this one in {made!a} and not in {own}"
        raise ModelError(f"{path}: made for another base model{doubt}: SaRA replaces single weights, load that one")


def base_hash(model: Backbone, dtype: torch.dtype) -> str:
    """sha256 of the network's weights, rounded to `dtype`; the adapter has to be off."""
    total = sha256()
    for name, tensor in sorted(frozen_state(model.net).items()):
        total.update(digest({name: tensor.to(dtype) if tensor.is_floating_point() else tensor}).encode())
    return total.hexdigest()


def base_of(model: Backbone, name: str) -> Tensor:
    """A tensor of the network, flat, float64, on the CPU."""
    return model.net.get_parameter(name.partition(".")[2]).detach().reshape(-1).double().cpu()


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
