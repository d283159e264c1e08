"""Nested state <-> named tensors plus JSON: what a checkpoint is made of, without a pickle."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """Groups of named tensors (one safetensors file each) and JSON-able `meta`."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def put(self, group: str, tree: Any) -> None:
        """Adds nested tensors, numbers, strings, dicts, lists and tuples; TypeError for anything else."""
        tensors: dict[str, Tensor] = {}
        self.meta[group] = _pack(tree, group, tensors)
        if tensors:
            self.tensors[group] = tensors

    def get(self, group: str) -> Any:
        """The structure `put` was given, with copies of the tensors."""
        return _unpack(self.meta[group], self.tensors.get(group, {}))


def _pack(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `tree`, its tensors into `tensors` by path. Dicts become pairs, so that int keys survive."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if isinstance(tree, np.ndarray):
        return {"array": tree.tolist(), "dtype": str(tree.dtype)}
    if isinstance(tree, dict):
        return {"dict": [[key, _pack(value, f"{path}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [_pack(value, f"{path}.{i}", tensors) for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{path}: a {type(tree).__name__} cannot go into a checkpoint; keep tensors, numbers and strings")


def _unpack(json: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_pack`."""
    if not isinstance(json, dict):
        return json
    if "tensor" in json:
        return tensors[json["tensor"]].clone()
    if "array" in json:
        return np.array(json["array"], dtype=json["dtype"])
    if "dict" in json:
        return {key: _unpack(value, tensors) for key, value in json["dict"]}
    kind, values = next(iter(json.items()))
    return (tuple if kind == "tuple" else list)(_unpack(value, tensors) for value in values)


def randomness() -> dict[str, Any]:
    """The state of every global random generator: torch (CPU and CUDA), numpy, Python."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def seed(number: int) -> None:
    """Starts every global random generator from one number."""
    random.seed(number)
    np.random.seed(number % 2**32)  # numpy takes no larger one
    torch.manual_seed(number)


def set_randomness(state: dict[str, Any]) -> None:
    """Puts the global random generators where `randomness` found them."""
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
