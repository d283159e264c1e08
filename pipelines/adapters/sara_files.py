"""SaRA's files: per tensor the indices that were trained, and their values or changes; never a mask made again.

A file belongs to one base model, known by sha256 of the network's weights, in any precision they are loaded in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from studio.pipelines.adapters import sara_exports, writing
from studio.pipelines.adapters.sara import Config, SaRA
from studio.pipelines.adapters.sara_reading import ABOUT, KIND, OURS, ROUNDED, VERSION, Change, base_hash, name_of, read
from studio.pipelines.adapters.sara_select import Selection, narrow
from studio.pipelines.protocols import Backbone

STORES = {"delta": torch.float32, "delta-fp16": torch.float16, "delta-bf16": torch.bfloat16}


def save(model: Backbone, adapter: SaRA, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """One safetensors file that `load` reads; its path. metadata: further header fields."""
    tensors = {}
    for name, place in adapter.places.items():
        tensors[f"{name}.indices"] = place.index
        values, dtype = place.values(), STORES.get(adapter.config.store)
        if dtype is None:
            tensors[f"{name}.values"] = values
        else:
            tensors[f"{name}.delta"] = (values.double() - place.original.double()).to(dtype)
    with adapter.off():
        base = {name_of(dtype): base_hash(model, dtype) for dtype in ROUNDED[model.dtype]}
    about = {
        "version": VERSION,
        "method": "SaRA",
        "threshold": adapter.threshold if adapter.threshold < float("inf") else None,
        "quantile": adapter.config.quantile,
        "entries": sum(len(place.index) for place in adapter.places.values()),
        "precision": name_of(model.dtype),
        "base": base,
    }
    header = {"format": "pt", KIND: SaRA.kind, OURS: adapter.config.model_dump_json()}
    return writing.write(tensors, path, {**header, ABOUT: json.dumps(about, sort_keys=True), **(metadata or {})})


def exports(model: Backbone, adapter: SaRA, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """Our file, then those that `adapter.exports` asks for; their paths."""
    return [save(model, adapter, folder / "adapter.safetensors", about), *sara_exports.write(adapter, folder, about)]


def load(model: Backbone, path: Path) -> SaRA:
    """The adapter a file holds, in `model` and switched on.

    Raises ModelError, in one line that names the file, for a damaged or foreign one and for another base model.
    """
    file = read(model, Path(path))
    return built(model, file.values, file.config, file.threshold)


def built(model: Backbone, values: Change, config: Config, threshold: float) -> SaRA:
    """An adapter of these entries with these values."""
    index = {name.partition(".")[2]: narrow(found, int(found[-1]) + 1) for name, (found, _) in values.items()}
    adapter = SaRA(model, Selection(index, threshold), config)
    with torch.no_grad():
        for name, (_, found) in values.items():
            adapter.places[name].vector.copy_(found)
    adapter.write()
    return adapter


def into_stock(pipe: Any, model: Backbone, path: Path) -> None:
    """Put the file's values into the network of a stock pipeline made of `model`."""
    for name, (index, values) in read(model, Path(path)).values.items():
        part, _, parameter = name.partition(".")
        weight = getattr(pipe, part).get_parameter(parameter).data
        weight.view(-1)[index.to(weight.device)] = values.to(weight.device, weight.dtype)
