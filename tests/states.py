"""States of runs: through files as the store keeps them, and compared to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studio.pipelines.protocols import Backbone
from studio.snapshot import State


def through_disk(state: State, folder: Path) -> State:
    """As the store keeps it: one safetensors file a group, and JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for group, tensors in state.tensors.items():
        save_file(tensors, folder / f"{group}.safetensors")
    meta = json.loads(json.dumps(state.meta))
    return State({path.stem: load_file(path) for path in folder.glob("*.safetensors")}, meta)


def differences(left: State, right: State) -> list[str]:
    """What differs between two states, by name: tensors in any bit, and everything else; empty when nothing does."""
    one, two = (
        {f"{group}/{name}": tensor for group, tensors in state.tensors.items() for name, tensor in tensors.items()}
        for state in (left, right)
    )
    odd = sorted(one.keys() ^ two.keys())
    odd += [name for name in one.keys() & two.keys() if not equal(one[name], two[name])]
    # through JSON: a file knows no difference between 1 and 1.0 in a tuple or a list
    metas = [{key: json.dumps(value) for key, value in state.meta.items()} for state in (left, right)]
    return odd + [key for key in metas[0].keys() | metas[1].keys() if metas[0].get(key) != metas[1].get(key)]


def equal(left: Tensor, right: Tensor) -> bool:
    """Same type, shape and bits."""
    return left.dtype == right.dtype and torch.equal(left, right)


def frozen(model: Backbone) -> dict[str, Tensor]:
    """Copies of every parameter and buffer of the model's parts that does not learn."""
    parts: dict[str, nn.Module | None] = {"net": model.net, **model.text_encoders, "vae": getattr(model, "vae", None)}
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, module in parts.items()
        if module is not None
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        if not tensor.requires_grad
    }
