"""Encoders that were published as one file of tensors, often a pickle, and maybe without a tokenizer beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from studio.pipelines import checkpoints, hub, pickles
from studio.pipelines.encoders import files
from studio.pipelines.encoders.base import Encoder, Loaded, load_or_refuse, name
from studio.pipelines.errors import ModelError

TEXTS = ("*.json", "*.txt")
BEGINNINGS = ("tokenizer.json", "vocab.json", "vocab.txt")


class SingleFile(Encoder):
    """An encoder in one file: `source` is that file, or a folder or hub repository that has `file` in it.

    file: its published name, with .safetensors in place of a pickle's suffix as first choice.
    """

    file: str

    def __init__(self, source: str, revision: str, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(source, revision, device, dtype)
        self.id = title(source, revision, self.file)

    @cached_property
    def loaded(self) -> Loaded:
        """Network, framing and tokenizer out of the file. Raises ModelError when they cannot be had."""
        return load_or_refuse(self.id, lambda: self.load(find(self.source, self.revision, self.file)))

    def expected(self) -> None:
        """Raises ModelError where the file is not on this machine and the hub does not answer; reads nothing."""
        local(self.source, self.revision, self.file)


def title(source: str, revision: str, file: str) -> str:
    """How one file's weights are named in tables and errors; on this machine there is no revision."""
    return source if checkpoints.place(source)[1] else name(source, revision).replace("@", f"/{file}@", 1)


def find(source: str, revision: str, file: str) -> Path:
    """`source` itself if it is a file, or else `file` in the folder or hub repository `source`.

    Raises ModelError, also when there is only a pickle and pickles are not allowed.
    """
    here, names = local(source, revision, file), named(file)
    if here is not None:
        return here
    lack = f"no {names[0]}: {pickles.WHY}"
    return fetched(source, revision, [*names, *TEXTS], lambda folder: picked(folder, names), lack)


def local(source: str, revision: str, file: str) -> Path | None:
    """What `find` finds on this machine; None where it would be downloaded. Raises as `find`, and downloads nothing."""
    path, kind = checkpoints.place(source)
    if kind == "file":
        return path
    names = named(file)
    if kind == "folder":
        if not any((path / name).is_file() for name in names) and (path / file).is_file():
            pickles.refuse(path / file)
        return picked(path, names) or missing(f"{path}: no {' or '.join(names)} in it")
    return cached(source, revision, [*names, *TEXTS], lambda folder: picked(folder, names))


def named(file: str) -> list[str]:
    """The names under which a file may be read, the one without pickles first."""
    safe = str(Path(file).with_suffix(".safetensors"))
    return [safe, file] if pickles.may() or safe == file else [safe]


def picked(folder: Path, names: list[str]) -> Path | None:
    """The first of the files that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def missing(what: str) -> Path:
    """Raises ModelError."""
    raise ModelError(f"{what}; {files.WITHOUT}")


def fetched(source: str, revision: str, patterns: list[str], pick: Callable[[Path], Path | None], lack: str) -> Path:
    """What `pick` takes out of a hub repository's files that match, from the cache or else downloaded.

    Raises ModelError, within seconds when there is no network; `lack` says what it is when `pick` finds nothing.
    """
    if (found := cached(source, revision, patterns, pick)) is not None:
        return found
    revision = files.pinned(source, revision)
    folder = files.fetched(source, revision, patterns, False)
    if isinstance(folder, str):
        return missing(f"encoder {source}@{revision}: the hub refused it ({folder})")
    return pick(folder) or missing(f"encoder {source}@{revision}: has {lack}")


def cached(source: str, revision: str, patterns: list[str], pick: Callable[[Path], Path | None]) -> Path | None:
    """What `pick` takes out of a hub repository's cached files; None where they would be downloaded.

    Raises ModelError where the hub cannot be asked, within seconds.
    """
    if not checkpoints.HUB_ID.fullmatch(source):
        return missing(f"encoder {source[:200]!a}: no such file or folder, and not a hub id like owner/name")
    revision = files.pinned(source, revision)
    folder = files.fetched(source, revision, patterns, True)
    if isinstance(folder, Path) and (found := pick(folder)):
        return found
    if not hub.reachable():
        return missing(f"encoder {source}@{revision}: not cached, and the hub does not answer; connect")
    return None


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; of a pickle only where that is allowed, and then as plain weights."""
    return pickles.load(path) if pickles.is_pickle(path) else load_file(path)


def fill(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Put the tensors in the place of the network's. Raises ModelError unless they are all of its and no others."""
    wanted = network.state_dict()
    lacking = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
    extra = sorted(set(state) - set(wanted))
    if lacking or extra:
        what = f"no fitting {lacking[0]}" if lacking else f"{extra[0]}, which it has no place for"
        raise ModelError(f"weights of another network than {type(network).__name__}: {what}; {files.WITHOUT}")
    network.load_state_dict(state, assign=True)


def texts(folder: Path, published: str) -> Path:
    """`folder` if it has a tokenizer's files, or else those of the hub repository that the encoder was trained with.

    Raises ModelError when they cannot be had.
    """

    def pick(place: Path) -> Path | None:
        return place if picked(place, list(BEGINNINGS)) else None

    lack = f"no tokenizer; put one beside the weights in {folder}"
    return pick(folder) or fetched(published, "", list(TEXTS), pick, lack)
