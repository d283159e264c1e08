"""Frozen weights: their fingerprint, and casting them while parameters that learn keep their type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn


def digest(tensors: Mapping[str, Tensor], config: Any = None) -> str:
    """sha256 over names, types, shapes and bytes of `tensors`, and over a JSON-like `config`."""
    total = sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def frozen_state(module: nn.Module) -> dict[str, Tensor]:
    """The base model's state dict, by its own names, whether or not peft has wrapped some of its layers."""
    wrapped = tuple(f"{name}." for name, part in module.named_modules() if hasattr(part, "base_layer"))
    state = module.state_dict()
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in state.items()
        if ".base_layer." in name or not name.startswith(wrapped)
    }


def cast_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast floating parameters and buffers in place, all but the parameters that learn, and what adapters keep."""
    kept = [tensor for name, tensor in module.named_buffers() if not name.rpartition(".")[2].startswith("lora_")]
    for tensor in (*module.parameters(), *kept):
        if tensor.is_floating_point() and not tensor.requires_grad:
            tensor.data = tensor.data.to(dtype)
