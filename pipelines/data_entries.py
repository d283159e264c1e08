"""Cache entries on disk: named tensors with a checksum, renamed into place, never trusted when damaged."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from studio.pipelines.errors import DataError, MemoryShortage, is_full


def read(path: Path) -> dict[str, Tensor] | None:
    """The tensors in the file; None where there is none, or, with a warning, where it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            # a copy: the file may be replaced under a memory map
            entry = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
            if (file.metadata() or {}).get("sha256") == digest(path.stem, entry):
                return entry
        reason = "its checksum is wrong"
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
    warnings.warn(f"cache entry {path} is damaged ({reason}): made again", stacklevel=3)
    return None


def write(path: Path, entry: Mapping[str, Tensor]) -> None:
    """Put the tensors on disk, whole or not at all.

    MemoryShortage: the disk is full; DataError: the folder cannot be written.
    """
    data = save(dict(entry), metadata={"sha256": digest(path.stem, entry)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data)
    except OSError as error:
        full = is_full(error)
        hint = "free some space" if full else "see who may write there"
        message = f"cannot write the cache in {path.parent}: {error.strerror or error}; {hint} and start again"
        raise (MemoryShortage if full else DataError)(message) from error


def replace(path: Path, data: bytes) -> None:
    """Write the file aside and rename it; nothing is left where that fails."""
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:16]}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def digest(name: str, entry: Mapping[str, Tensor]) -> str:
    """sha256 over the entry's name and tensors."""
    total = hashlib.sha256(name.encode())
    for key, tensor in sorted(entry.items()):
        total.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
