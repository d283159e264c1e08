"""Adapter files on the disk: whole or not there, and the same bytes for the same tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def write(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> Path:
    """safetensors at `path`, written aside and on the disk before it is renamed. Returns the path."""
    from safetensors.torch import save

    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata=dict(metadata))
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:  # save_file would make a file that only its owner may read
            file.write(_ordered(content))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def annotate(path: Path, about: Mapping[str, str]) -> Path:
    """The file at `path` with further fields in its header."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors, before = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    return write(tensors, path, {**before, **about})


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its metadata in alphabetical order: the library's order is another in every process."""
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    about = dict(sorted(entries.pop("__metadata__").items()))
    text = json.dumps({"__metadata__": about, **entries}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]
