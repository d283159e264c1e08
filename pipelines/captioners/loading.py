"""A captioner's network and processor: out of a folder or the hub, read once per process, refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.pipelines.errors import ModelError

if TYPE_CHECKING:
    import torch

Load = Callable[[Path, "torch.device", "torch.dtype"], tuple[Any, Any]]
OTHERWISE = (
    "name a folder that has it with --model, or, for pictures of the embedded world only, take --captioner embedded"
)


@cache
def loaded(load: Load, source: str, revision: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor, read once per process. Raises ModelError where they cannot be had."""
    from studio.pipelines.encoders import files

    try:
        folder = files.place(source, revision)
        return files.load_or_refuse(source, lambda: load(folder, device, dtype))
    except ModelError as error:
        reason = str(error).removeprefix("encoder ").replace(files.WITHOUT, OTHERWISE)
        raise ModelError(f"captioner {reason}") from error


def read(folder: Path, family: str, kind: Any, processor: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Model and processor of these classes out of a folder. ModelError: it holds another family, or lacks files."""
    from studio.pipelines.encoders import files

    files.family(folder, [family])
    return files.pretrained(kind, folder, device, dtype), processor.from_pretrained(folder, local_files_only=True)
