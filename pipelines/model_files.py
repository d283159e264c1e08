"""The files of a model in diffusers' layout, looked at before anything loads them; a stranger may have made them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from studio.pipelines import pickles
from studio.pipelines.errors import ModelError, UsageError

COMPONENT = re.compile(r"[A-Za-z]\w{0,99}")  # a plain folder name
LIBRARIES = ("diffusers", "transformers")  # a model_index.json may name any module, and loading would import it


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError when the file is missing or damaged."""
    if not path.is_file():
        raise ModelError(f"{path.parent}: not a diffusers model, {path.name} is missing")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: damaged JSON ({error}); download the model again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: damaged JSON (no object); download the model again")
    return found


def read_index(folder: Path) -> dict[str, Any]:
    """model_index.json: component -> [library, class].

    Raises ModelError when it is damaged or missing, UsageError for a folder that holds no part of a model either.
    """
    path = folder / "model_index.json"
    if not path.exists() and not any(folder.glob("*/config.json")):
        raise UsageError(f"model = {str(folder)!a}: no model, {path.name} is missing; name a diffusers folder")
    found = read_json(path)
    for name, entry in found.items():
        if isinstance(entry, list) and len(entry) != 2 and not name.startswith("_"):
            raise ModelError(f"{folder / 'model_index.json'}: {name!r} is not [library, class]; download it again")
    return found


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in a weights file. Raises ModelError when it is cut off, damaged or a refused pickle."""
    if pickles.is_pickle(path):
        return list(pickles.load(path))
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged or incomplete ({error}); download it again") from error


def component_weights(folder: Path) -> Iterator[tuple[str, int]]:
    """(component, number of tensors on disk) of each component with weights; 0 where they are pickles.

    Raises ModelError for a component that is missing, damaged or leads elsewhere.
    """
    for name, entry in read_index(folder).items():
        if name.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        if not COMPONENT.fullmatch(name):
            raise ModelError(f"{folder}: {name!r} is no component's name; download the model again")
        part = folder / name
        if not part.is_dir():
            raise ModelError(f"{folder}: incomplete, the folder {name} is missing; download the model again")
        if (part / "config.json").is_file():
            yield name, tensors_on_disk(part)


def check_libraries(folder: Path, without: Collection[str]) -> None:
    """ModelError when a component, but those in `without`, is to be loaded by code of the model's own."""
    for name, entry in read_index(folder).items():
        if name in without or name.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        if entry[0] not in LIBRARIES or not COMPONENT.fullmatch(str(entry[1])):
            raise ModelError(
                f"{folder / 'model_index.json'}: {name} wants code of its own ({entry[0]}), which is not run; "
                "use a model made of diffusers' and transformers' parts"
            )


def tensors_on_disk(part: Path) -> int:
    """How many tensors, told by name, the component's safetensors hold; 0 where there are only pickles."""
    for index in part.glob("*.safetensors.index.json"):
        for shard in shards(index):
            if not (part / shard).is_file():
                raise ModelError(f"{part / shard}: missing; download the model again")
    files = sorted(part.glob("*.safetensors"))
    others = sorted(path for path in part.iterdir() if pickles.is_pickle(path))
    if not files and not others:
        raise ModelError(f"{part}: no weights (.safetensors) in it; download the model again")
    if not files:
        pickles.refuse(others[0])
    return len({name for file in files for name in tensor_names(file)})


def shards(index: Path) -> set[str]:
    """The files that an index names. Raises ModelError unless all are safetensors beside it."""
    named = read_json(index).get("weight_map")
    found = set(map(str, named.values())) if isinstance(named, dict) else {""}
    for shard in found:
        if Path(shard).name != shard or not shard.endswith(".safetensors") or "\0" in shard:
            raise ModelError(f"{index}: names {shard!r}, not a .safetensors file beside it; download the model again")
    return found


def check_complete(part: Path, module: nn.Module, count: int) -> None:
    """ModelError when files hold fewer tensors than the module: diffusers would fill in random ones."""
    wanted = sum(1 for _ in module.parameters())
    if 0 < count < wanted:
        raise ModelError(f"{part}: incomplete, {count} of {wanted} tensors; download the model again")
