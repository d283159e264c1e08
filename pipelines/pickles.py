"""Pickled weights: refused, because opening a pickle can run code; read after all where a person insists.

The leave is a word on the command line (`--allow-pickle`) and never a setting: a config that came with a download
must not be able to give it. Even then files go through `torch.load(weights_only=True)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.pipelines.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"))
WHY = "a pickle can run code when it is opened; convert it to .safetensors, or add --allow-pickle if you trust it"
_leave = ContextVar("allow_pickle", default=False)


@contextmanager
def allowed(yes: bool = True) -> Iterator[None]:
    """Inside, pickled weights may be read (no: stay refused)."""
    before = _leave.set(yes)
    try:
        yield
    finally:
        _leave.reset(before)


def may() -> bool:
    """Whether a person allowed pickles for this call."""
    return _leave.get()


def is_pickle(path: Path) -> bool:
    """Whether a file's name is that of a pickle."""
    return path.suffix.lower() in SUFFIXES


def refuse(path: Path) -> None:
    """Raises ModelError, with the reason, unless pickles are allowed."""
    if not may():
        raise ModelError(f"{path}: pickled weights are not read: {WHY}")


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled state dict, by name. ModelError: not allowed, not readable or no state dict."""
    import torch

    refuse(path)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{path}: not readable even as plain weights: {reason}") from None
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ModelError(f"{path}: holds no named tensors")
    return tensors
