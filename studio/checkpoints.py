"""Checkpoints that are valid or absent: staged beside their place, hashed, renamed once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.pipelines.errors import MemoryShortage

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose hashes were found right. meta: what JSON can hold."""

    folder: Path
    step: int
    meta: dict[str, Any]

    def names(self) -> list[str]:
        """The groups of tensors it holds."""
        return sorted(path.stem for path in self.folder.glob("*.safetensors"))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One group of tensors, on the CPU; empty when the group was not saved."""
        from safetensors.torch import load_file

        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.is_file() else {}


@contextmanager
def room(folder: Path, what: str, kept: str) -> Iterator[None]:
    """Turns a full disk into one line that says what was not written and what was kept.

    Raises MemoryShortage.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL and "No space left" not in str(error):
            raise
        raise MemoryShortage(f"the disk of {folder} is full: {what} was not written; {kept}") from error


def need_room(folder: Path, size: int, what: str, kept: str) -> None:
    """Raises MemoryShortage when fewer than `size` bytes are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if free < size:
        figures = f"{size / 2**20:.0f} MB needed, {free / 2**20:.0f} MB free"
        raise MemoryShortage(f"not enough disk in {folder} for {what} ({figures}); {kept}")


def save(folder: Path, step: int, tensors: Mapping[str, Tensors], meta: Mapping[str, Any], kept: str) -> Path:
    """Writes `folder`/step-000500 with one safetensors file per group, meta.json and a hashed manifest.

    Raises MemoryShortage when the disk is full; what was there before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    size = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    what = f"the checkpoint of step {step}"
    need_room(folder, size + 2**20, what, kept)
    stage = folder / f".writing-{os.getpid()}"
    try:
        with room(folder, what, kept):
            write(stage, step, tensors, meta)
            return publish(stage, folder / f"step-{step:06d}")
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write(stage: Path, step: int, tensors: Mapping[str, Tensors], meta: Mapping[str, Any]) -> None:
    """The checkpoint's files, each flushed to the disk; the manifest comes last."""
    from safetensors.torch import save as to_bytes

    stage.mkdir()
    for name, group in tensors.items():
        sync(
            stage / f"{name}.safetensors",
            to_bytes({k: t.detach().cpu().contiguous() for k, t in group.items()}),
        )
    sync(stage / "meta.json", json.dumps({"step": step, **meta}, indent=1).encode())
    hashes = {path.name: digest(path) for path in sorted(stage.iterdir())}
    sync(stage / "manifest.json", json.dumps({"step": step, "sha256": hashes}, indent=1).encode())


def sync(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def digest(path: Path) -> str:
    """sha256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def publish(stage: Path, final: Path) -> Path:
    """Gives a finished folder its name; an older one of that name goes only after the new one stands."""
    old = final.with_name(f".old-{final.name}")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    stage.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    if hasattr(os, "O_DIRECTORY"):  # a rename is on the disk when its folder is
        handle = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(handle)
        os.close(handle)
    return final


def clear(folder: Path) -> None:
    """Sweeps what a crash left behind; an old checkpoint without its successor gets its name back."""
    for old in folder.glob(".old-*"):
        final = folder / old.name.removeprefix(".old-")
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(final)
    for stage in folder.glob(".writing-*"):
        shutil.rmtree(stage, ignore_errors=True)


def damage(folder: Path) -> str:
    """Why a checkpoint cannot be trusted, or ''."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))["sha256"]
        wrong = [name for name, sha in manifest.items() if digest(folder / name) != sha]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(wrong)} changed since it was written" if wrong else ""


def latest(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint; damaged ones are named in a warning and skipped."""
    for path in sorted(folder.glob("step-[0-9]*"), key=lambda path: int(path.name.removeprefix("step-")), reverse=True):
        if reason := damage(path):
            warnings.warn(f"the checkpoint {path} is damaged and was skipped ({reason})", stacklevel=2)
            continue
        meta = json.loads((path / "meta.json").read_text("utf-8"))
        return Checkpoint(path, int(meta.pop("step")), meta)
    return None
