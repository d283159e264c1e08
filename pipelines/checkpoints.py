"""From a model's name to files on disk, checked, and to a stock pipeline loaded from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from packaging.version import Version
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging as transformers_logging

from studio.pipelines import assets, families, hub
from studio.pipelines.errors import ModelError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
RENAMED = Version("0.42")  # the diffusers release that calls torch_dtype dtype
DTYPE = "dtype" if Version(diffusers.__version__) >= RENAMED else "torch_dtype"


def find(model: str) -> tuple[families.Family, Path]:
    """The family of a model and its folder or file; a hub id is fetched into the hub's cache first.

    Raises ModelError.
    """
    if any(model in family.names for family in families.ours()):
        return families.pick(lambda family: model in family.names, model), Path(model)
    path = assets.model_path(model)
    if path.is_file():
        return single_file_family(path), path
    if not path.is_dir():
        if model == "embedded":
            raise ModelError(f"{path}: the embedded model is not there; build it with `python -m studio.world build`")
        if not HUB_ID.fullmatch(model):
            raise ModelError(f"{model}: no such folder or file, and not a hub id like owner/name")
        path = hub.snapshot(model)
    name = read_json(path / "model_index.json").get("_class_name", "")
    return families.pick(
        lambda family: name in family.classes, f"{path / 'model_index.json'}: {name or 'a model'}"
    ), path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError when the file is missing or damaged."""
    if not path.is_file():
        raise ModelError(f"{path.parent}: not a diffusers model, {path.name} is missing")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: damaged JSON ({error}); download the model again") from error


def single_file_family(path: Path) -> families.Family:
    """The family of a single `.safetensors` file, told by its tensors' names."""
    if path.suffix != ".safetensors":
        raise ModelError(f"{path}: only .safetensors files are read; convert it, or give a diffusers folder")
    names = tensor_names(path)
    return families.pick(
        lambda family: any(name.startswith(key) for key in family.keys for name in names),
        f"{path}: this single file",
    )


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file. Raises ModelError when it is cut off or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged or incomplete ({error}); download it again") from error


def stock(pipeline: Any, source: Path, dtype: torch.dtype, **parts: Any) -> Any:
    """A stock pipeline from a folder or single file, offline. `parts` replace components (None: left out).

    Raises ModelError naming the file that is missing, damaged or incomplete.
    """
    if source.is_file():
        return single_file(pipeline, source, dtype, **parts)
    weights = {name: count for name, count in component_weights(source) if parts.get(name, name) is not None}
    try:
        with quiet():
            pipe = pipeline.from_pretrained(source, local_files_only=True, **{DTYPE: dtype}, **parts)
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


def component_weights(folder: Path) -> Iterator[tuple[str, int]]:
    """(component, number of tensors on disk) of each component with weights; 0 where not safetensors."""
    for name, entry in read_json(folder / "model_index.json").items():
        if name.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        part = folder / name
        if not part.is_dir():
            raise ModelError(f"{folder}: incomplete, the folder {name} is missing; download the model again")
        if (part / "config.json").is_file():
            yield name, tensors_on_disk(part)


def tensors_on_disk(part: Path) -> int:
    """How many tensors, told by name, the component's safetensors hold; 0 where there are only .bin files."""
    for index in part.glob("*.safetensors.index.json"):
        shards = {part / shard for shard in read_json(index).get("weight_map", {}).values()}
        if absent := [shard for shard in shards if not shard.is_file()]:
            raise ModelError(f"{absent[0]}: missing; download the model again")
    files = sorted(part.glob("*.safetensors"))
    if not files and not list(part.glob("*.bin")):
        raise ModelError(f"{part}: no weights (.safetensors) in it; download the model again")
    return len({name for file in files for name in tensor_names(file)})


def check_complete(part: Path, module: nn.Module, count: int) -> None:
    """ModelError when files hold fewer tensors than the module: diffusers would fill in random ones."""
    wanted = sum(1 for _ in module.parameters())
    if 0 < count < wanted:
        raise ModelError(f"{part}: incomplete, {count} of {wanted} tensors; download the model again")


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
    options = {"config": config, "local_files_only": config is not None, DTYPE: dtype}
    try:
        with quiet():
            return pipeline.from_single_file(str(source), **options, **parts)
    except Exception as error:  # diffusers raises anything here, from KeyError to the hub client's own types
        raise ModelError(f"{source}: not readable as {pipeline.__name__}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
