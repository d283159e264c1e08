"""torchvision's published weights: out of torch's cache or else downloaded, and known by the hash in their name."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import Tensor

from studio.pipelines import hub, pickles
from studio.pipelines.errors import ModelError

PIECE = 2**20  # bytes
WITHOUT = "connect, name a file with them, or leave the scorer out"


def weights(url: str, what: str) -> dict[str, Tensor]:
    """The tensors of a file whose name ends in the beginning of its sha256. what: whose they are, for messages.

    Raises ModelError, within seconds when there is no network.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        if not hub.reachable():
            raise ModelError(f"{what}: its weights are not in {file.parent}, and there is no network; {WITHOUT}")
        try:
            download(url, file)
        except OSError as error:
            raise ModelError(f"{what}: its weights did not come ({error}); {WITHOUT}") from None
    if not digest(file).startswith(file.stem.rpartition("-")[2]):
        raise ModelError(f"{file}: damaged, its hash is not the one in its name; delete it and start again")
    with pickles.allowed():  # exactly what torchvision publishes, by its hash: no stranger's file
        return pickles.load(file)


def download(url: str, file: Path) -> None:
    """Write what `url` answers to `file`: whole or not at all. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with urlopen(url, timeout=hub.PATIENCE) as answer, part.open("wb") as stream:
            shutil.copyfileobj(answer, stream, PIECE)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def digest(file: Path) -> str:
    """sha256 of a file's bytes."""
    total = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(PIECE):
            total.update(piece)
    return total.hexdigest()
