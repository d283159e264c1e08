"""From a model's name to files on disk, checked, and to a stock pipeline loaded from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from packaging.version import Version
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from studio.pipelines import assets, families, hub, pickles
from studio.pipelines.confine import permitted
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.model_files import check_complete, check_libraries, component_weights, read_index, tensor_names

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WEIGHTS = {".safetensors", *pickles.SUFFIXES}
RENAMED = Version("0.42")  # the diffusers release that calls torch_dtype dtype
DTYPE = "dtype" if Version(diffusers.__version__) >= RENAMED else "torch_dtype"


def find(model: str) -> tuple[families.Family, Path]:
    """The family of a model and its folder or file; a hub id is fetched into the hub's cache first.

    Raises UsageError for what is no model at all, ModelError for one with missing, damaged or refused files.
    """
    if any(model in family.names for family in families.ours()):
        return families.pick(lambda family: model in family.names, model), Path(model)
    path, kind = place(model)
    if kind:
        permitted(path, "model", ModelError)
    if kind == "file":
        return single_file_family(path), path
    if kind != "folder":
        if model == "embedded":
            raise ModelError(f"{path}: the embedded model is not there; build it with `python -m studio.world build`")
        path = hub.snapshot(hub_id(model))
    name = read_index(path).get("_class_name", "")
    return families.pick(
        lambda family: name in family.classes, f"{path / 'model_index.json'}: {name or 'a model'}"
    ), path


def place(model: str) -> tuple[Path, str]:
    """The path a model's name stands for, and whether a "file", a "folder" or nothing ("") is there."""
    try:
        path = assets.model_path(model)
        return path, "file" if path.is_file() else "folder" if path.is_dir() else ""
    except (OSError, ValueError, RuntimeError):  # too long for a path, a NUL in it, the home of nobody
        return Path(), ""


def hub_id(model: str) -> str:
    """The name, if it can be a hub id. Raises UsageError for any other: nothing of that name is on this machine."""
    if not HUB_ID.fullmatch(model) or Path(model).suffix.lower() in WEIGHTS:
        raise UsageError(f"model = {model[:200]!a}: no such folder or file, and not a hub id like owner/name")
    return model


def single_file_family(path: Path) -> families.Family:
    """The family of a single `.safetensors` file (or allowed pickle), told by its tensors' names.

    Raises UsageError for a file of another kind, ModelError for one that cannot be read or has other tensors.
    """
    if pickles.is_pickle(path):
        pickles.refuse(path)
    elif path.suffix != ".safetensors":
        raise UsageError(f"model = {str(path)!a}: no model; give a .safetensors file, a diffusers folder or a hub id")
    names = tensor_names(path)
    return families.pick(
        lambda family: any(name.startswith(key) for key in family.keys for name in names),
        f"{path}: this single file",
    )


def stock(pipeline: Any, source: Path, dtype: torch.dtype, **parts: Any) -> Any:
    """A stock pipeline from a folder or single file, offline. `parts` replace components (None: left out).

    Raises ModelError naming the file that is missing, damaged or incomplete.
    """
    if source.is_file():
        return single_file(pipeline, source, dtype, **parts)
    weights = {name: count for name, count in component_weights(source) if parts.get(name, name) is not None}
    check_libraries(source, parts)
    options = {"use_safetensors": None if pickles.may() else True, "trust_remote_code": False, DTYPE: dtype}
    try:
        with quiet():
            pipe = pipeline.from_pretrained(source, local_files_only=True, **options, **parts)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{source}: diffusers could not load it: {first_line(error)}") from error
    for name, count in weights.items():
        check_complete(source / name, getattr(pipe, name), count)
    return pipe


@contextmanager
def quiet() -> Iterator[None]:
    """No loading bars of diffusers and transformers inside: a whole run has one progress display."""
    shown = [part for part in (diffusers_logging, transformers_logging) if part.is_progress_bar_enabled()]
    for part in shown:
        part.disable_progress_bar()
    try:
        yield
    finally:
        for part in shown:
            part.enable_progress_bar()


def single_file(pipeline: Any, source: Path, dtype: torch.dtype, **parts: Any) -> Any:
    """A stock pipeline from an original-layout file; its configs lie beside it, or come from the hub."""
    beside = source.with_suffix("")
    folders = (beside, source.parent, hub.cached_configs(source))
    config = next((str(folder) for folder in folders if folder and (folder / "model_index.json").is_file()), None)
    if config is None and not hub.reachable():
        raise ModelError(
            f"{source}: no configs beside it, and the hub does not answer; "
            f"put the model's diffusers folder (configs and tokenizer are enough) at {beside}"
        )
    if config is not None:
        check_libraries(Path(config), parts)
    options = {"config": config, "local_files_only": config is not None, DTYPE: dtype}
    try:
        with quiet():
            return pipeline.from_single_file(str(source), **options, **parts)
    except Exception as error:  # diffusers raises anything here, from KeyError to the hub client's own types
        raise ModelError(f"{source}: not readable as {pipeline.__name__}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
