"""Adapter files of every kind: each is written and read by the module of its kind, which its header names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from studio.pipelines.adapters import together, tokens_files
from studio.pipelines.adapters.reading import header
from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import Adapter, Backbone

__all__ = ["exports", "header", "into_stock", "load", "save"]

NAME = "adapter.safetensors"
KIND = "studio.kind"  # in the header; without it a file is a LoRA
HERE = "studio.pipelines.adapters"


def save(model: Backbone, adapter: Adapter, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """One safetensors file that `load` reads; its path. metadata: further header fields."""
    path = Path(path)
    main, about = together.beside(model, adapter, path, metadata)
    return Path(_module(main.kind, path).save(model, main, path, about))


def load(model: Backbone, path: Path) -> Adapter:
    """The adapter of a file, ours or another tool's LoRA, in `model` and switched on.

    Raises ModelError, in one line that names the file, for one that is damaged, foreign or of another model.
    """
    kind = header(path).get(KIND) or ("tokens" if tokens_files.foreign(path) else "lora")
    main = _module(kind, path).load(model, Path(path))
    adapter: Adapter = together.rejoined(model, main, Path(path))
    return adapter


def exports(model: Backbone, adapter: Adapter, folder: Path, about: Mapping[str, str]) -> list[Path]:
    """What a finished run leaves: first our own file, then forms for other tools; their paths."""
    main, about = together.beside(model, adapter, folder / NAME, about)
    module, tokens = _module(main.kind, folder / NAME), [] if main is adapter else [together.companion(folder / NAME)]
    if hasattr(module, "exports"):
        return [*module.exports(model, main, folder, about), *tokens]
    return [save(model, main, folder / NAME, about), *tokens]


def into_stock(pipe: Any, model: Backbone, path: Path) -> None:
    """Put a file into a stock diffusers pipeline made of `model`, with what diffusers has for its kind."""
    module = _module(header(path).get(KIND, "lora"), path)
    if hasattr(module, "into_stock"):
        module.into_stock(pipe, model, path)
    else:
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, use_safetensors=True)
    together.into_stock(pipe, model, path)


def _module(kind: str, path: Path) -> Any:
    """What reads and writes a kind: `<kind>_files.py`, or `<kind>.py` alone. Raises ModelError for an unknown one."""
    for name in (f"{kind}_files", kind) if kind.isidentifier() else ():
        if find_spec(f"{HERE}.{name}"):
            module = import_module(f"{HERE}.{name}")
            if hasattr(module, "load") and hasattr(module, "save"):
                return module
    raise ModelError(f"{path}: an adapter of the kind {kind[:40]!a}, which this version does not know; is it newer?")
