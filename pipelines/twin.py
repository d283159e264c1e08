"""A model without weights: the same modules and shapes on fake tensors, to run and measure without computing."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from studio.pipelines import checkpoints
from studio.pipelines.backbone import Latent
from studio.pipelines.model_files import LIBRARIES, read_index
from studio.pipelines.protocols import Backbone

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")  # parts of stock pipelines no family of ours loads


def hollow(model: str, dtype: torch.dtype) -> Backbone:
    """The model called `model` on the meta device, from its config files: no weight is read.

    A model that is no diffusers folder of an autoencoder family (the toy, single files, some plug-ins) is loaded on
    the CPU instead. Raises ModelError as `backbone.load`.
    """
    family, source = checkpoints.find(model)
    kind = latent_class(family.module)
    if kind is None or not source.is_dir():
        loaded: Backbone = family.load(source, torch.device("cpu"), dtype)
        return loaded
    index = read_index(source)
    pipeline = getattr(importlib.import_module("diffusers"), index["_class_name"])
    with torch.device("meta"), default_dtype(dtype):
        parts = {name: part for name, entry in index.items() if (part := build(entry, source / name)) is not None}
    takes = inspect.signature(pipeline.__init__).parameters
    absent = [name for name in (*pipeline._optional_components, *UNUSED) if name in takes]
    none = {name: None for name in absent if name in UNUSED or (index.get(name) or [None])[0] is None}
    return kind(checkpoints.stock(pipeline, source, dtype, **(parts | none)))


def latent_class(module: str) -> Any:
    """The family's class around a stock pipeline, None where it has none."""
    members = vars(importlib.import_module(module)).values()
    kinds = [one for one in members if inspect.isclass(one) and issubclass(one, Latent) and one.__module__ == module]
    return kinds[0] if kinds else None


def build(entry: Any, folder: Path) -> nn.Module | None:
    """The network of one line of model_index.json from its config; None for what is no network."""
    if not isinstance(entry, list) or entry[0] not in LIBRARIES or folder.name in UNUSED:
        return None
    kind = getattr(importlib.import_module(entry[0]), entry[1])
    if not issubclass(kind, nn.Module):
        return None
    if entry[0] == "diffusers":
        made: nn.Module = kind.from_config(kind.load_config(folder))
        return made
    return kind(kind.config_class.from_pretrained(folder))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside have weights of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def twin(model: Backbone, mode: FakeTensorMode, device: torch.device) -> Any:
    """A copy of the model, and of the adapter in it, on `device` whose weights are fake tensors of `mode`.

    The model itself is only read; a cache in the place of its `embed` is left out.
    """
    memo: dict[int, Any] = {id(part): part for part in (model.scheduler, *model.tokenizers.values())}
    memo |= {id(tensor): fake(tensor, mode, device) for tensor in tensors(model)}
    replaced = vars(model).get("embed")
    if replaced is not None:
        memo[id(replaced)] = None
    made = copy.deepcopy(model, memo)
    vars(made).pop("embed", None)
    made.device = device
    return made


def tensors(model: Backbone) -> Iterator[Tensor]:
    """Every parameter and buffer of the model's networks and of its adapter, once."""
    seen: set[int] = set()
    parts: Any = model.modules()  # type: ignore[attr-defined]
    found = [t for part in parts.values() for t in (*part.parameters(), *part.buffers())]
    adapter: Any = model.adapter
    kept: list[Tensor] = getattr(adapter, "buffers", list)()
    for tensor in (*found, *([] if adapter is None else adapter.parameters()), *kept):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def fake(tensor: Tensor, mode: FakeTensorMode, device: torch.device) -> Tensor:
    """A fake tensor of the same shape, type and kind."""
    with mode:
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made
