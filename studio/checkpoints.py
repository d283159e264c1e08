"""Checkpoints that are valid or absent: staged beside their place, hashed, renamed once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from studio.disk import need_room, room

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]
Mark = Literal["best", "passing", "pinned"]
BEST: Mark = "best"
PASSING: Mark = "passing"
PINNED: Mark = "pinned"
NAME = re.compile(r"step-(\d{1,18})")
SPARE = 2**20  # bytes for what is not counted: file headers, folders


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


def save(folder: Path, step: int, tensors: Mapping[str, Tensors], meta: Mapping[str, Any], kept: str) -> Path:
    """Writes `folder`/step-000500 with one safetensors file per group, meta.json and a hashed manifest.

    Marks of an older checkpoint of that step stay. Raises DiskFull; what was there before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    said = json.dumps({"step": step, **meta}, indent=1).encode()
    size = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    what = f"the checkpoint of step {step}"
    need_room(folder, size + len(said) + SPARE, what, kept)
    stage = folder / f".writing-{os.getpid()}"
    try:
        with room(folder, what, kept):
            write(stage, step, tensors, said)
            return publish(stage, folder / f"step-{step:06d}")
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write(stage: Path, step: int, tensors: Mapping[str, Tensors], meta: bytes) -> None:
    """The checkpoint's files, each flushed to the disk; the manifest comes last."""
    from safetensors.torch import save as to_bytes

    stage.mkdir()
    for name, group in tensors.items():
        sync(
            stage / f"{name}.safetensors",
            to_bytes({k: t.detach().cpu().contiguous() for k, t in group.items()}),
        )
    sync(stage / "meta.json", meta)
    hashes = {path.name: digest(path) for path in sorted(stage.iterdir())}
    sync(stage / "manifest.json", json.dumps({"step": step, "sha256": hashes}, indent=1).encode())


def sync(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can say so."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
    for mark in marks(final):
        (stage / mark).touch()
    sync_folder(stage)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    stage.rename(final)
    sync_folder(final.parent)
    sync_folder(final.parent.parent)
    shutil.rmtree(old, ignore_errors=True)
    return final


def clear(folder: Path) -> None:
    """Sweeps what a crash left behind; an old checkpoint without its successor gets its name back.

    Only for the process that works in the run.
    """
    for old in folder.glob(".old-*"):
        final = folder / old.name.removeprefix(".old-")
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(final)
    for left in (*folder.glob(".writing-*"), *folder.glob(".deleting-*")):
        shutil.rmtree(left, ignore_errors=True)


def remove(path: Path) -> None:
    """Takes a checkpoint's name away, then its files: it is never seen half deleted."""
    hidden = path.with_name(f".deleting-{path.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden)


def damage(folder: Path) -> str:
    """Why a checkpoint cannot be trusted, or ''."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))["sha256"]
        there = {path.name for path in folder.iterdir()} - {"manifest.json", BEST, PASSING, PINNED}
        if odd := sorted(there ^ {*manifest} | {"meta.json"} - {*manifest}):
            return f"{', '.join(odd)}: in the folder or in the manifest, not in both"
        wrong = [name for name, sha in manifest.items() if digest(folder / name) != sha]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(wrong)} changed since it was written" if wrong else ""


def steps(folder: Path) -> dict[int, Path]:
    """The checkpoints by step, oldest first; their files are not looked at."""
    named = {path: NAME.fullmatch(path.name) for path in folder.glob("step-*")}
    return dict(sorted((int(match[1]), path) for path, match in named.items() if match and path.is_dir()))


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint, and what is wrong with those that are newer."""
    damaged: list[str] = []
    for path in reversed(steps(folder).values()):
        if not (reason := damage(path)):
            meta = json.loads((path / "meta.json").read_text("utf-8"))
            return Checkpoint(path, int(meta.pop("step")), meta), damaged
        damaged.append(f"the checkpoint {path} is damaged and was skipped ({reason})")
    return None, damaged


def marks(path: Path) -> list[Mark]:
    """What a checkpoint is marked as."""
    return [mark for mark in (BEST, PASSING, PINNED) if (path / mark).exists()]


def mark(path: Path, name: Mark) -> None:
    """Marks a checkpoint, by an empty file of that name.

    `pinned` is never deleted, `best` is one only, `passing` goes when a newer one stands.
    """
    (path / name).touch()
    sync_folder(path)
    for other in steps(path.parent).values():
        if name == BEST and other != path:
            (other / BEST).unlink(missing_ok=True)


def superfluous(folder: Path, step: int, last: int, best: bool, pinned: Collection[int]) -> list[Path]:
    """What may be deleted once the checkpoint of `step` stands: older than the `last` newest, and not to be kept.

    last: 0 keeps all; best: the marked one is kept; pinned: steps that are kept. Newer ones are left alone.
    """
    older = {number: path for number, path in steps(folder).items() if number <= step}
    passing = {number for number, path in older.items() if number < step and PASSING in marks(path)}
    kept = {*pinned, *[number for number in older if number not in passing][-last:], step}
    spared = {PINNED, *([BEST] if best else [])}
    gone = {number: path for number, path in older.items() if number in passing or (last and number not in kept)}
    return [path for number, path in gone.items() if number not in pinned and not spared & {*marks(path)}]
