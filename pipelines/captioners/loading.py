"""A captioner's network and processor: out of a folder or the hub, read once per process, refused in one line.

The hub ids known here are pinned to a commit; of another one's branch the commit that was downloaded is in its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.pipelines import checkpoints, pickles
from studio.pipelines.errors import ModelError

if TYPE_CHECKING:
    import torch

COMMIT = re.compile(r"[0-9a-f]{40}")
Load = Callable[[Path, "torch.device", "torch.dtype"], tuple[Any, Any]]
PINNED = {
    "Salesforce/blip-image-captioning-base": "82a37760796d32b1411fe092ab5d4e227313294b",  # its weights are a pickle
    "Salesforce/blip2-opt-2.7b": "59a1ef6c1e5117b3f65523d1c6066825bcf315e3",
    "florence-community/Florence-2-base": "00921df66db728a9ceb750f5eca43e5c203a2051",
}
INSTEAD = ", or take --captioner florence2, whose weights are safetensors"
OTHERWISE = (
    "name a folder that has it with --model, or, for pictures of the embedded world only, take --captioner embedded"
)


@cache
def loaded(load: Load, source: str, revision: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor, read once per process. Raises ModelError where they cannot be had."""
    from studio.pipelines.encoders import files

    try:
        folder = files.place(source, pinned(source, revision))
        return files.load_or_refuse(source, lambda: load(folder, device, dtype))
    except ModelError as error:
        reason = str(error).removeprefix("encoder ").replace(files.WITHOUT, OTHERWISE)
        reason += INSTEAD if pickles.WHY in reason else ""
        raise ModelError(f"captioner {reason}") from error


def pinned(source: str, revision: str = "") -> str:
    """The revision that is meant: the one given, or else the pinned one, or else main."""
    return revision or PINNED.get(source, "main")


def named(source: str, revision: str = "") -> str:
    """Hub id and commit, the one a branch stood for when it was downloaded; before that the branch. A folder's path."""
    from studio.pipelines.encoders import files

    if checkpoints.place(source)[1]:
        return source
    meant = pinned(source, revision)
    kept = files.fetched(source, meant, list(files.WANTED), True) if not COMMIT.fullmatch(meant) else meant
    return f"{source}@{kept.name if isinstance(kept, Path) else meant}"


def read(folder: Path, family: str, kind: Any, processor: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Model and processor of these classes out of a folder. ModelError: it holds another family, or lacks files."""
    from studio.pipelines.encoders import files

    files.family(folder, [family])
    return files.pretrained(kind, folder, device, dtype), processor.from_pretrained(folder, local_files_only=True)
