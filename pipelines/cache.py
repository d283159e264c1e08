"""A cache of latents and text embeddings, addressed by what they were made of, never by a position."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from studio.pipelines import data_entries
from studio.pipelines.protocols import Cond

FORMAT = 1  # part of every name: counted up when the meaning of an entry changes
KEEP = 2**30  # bytes held in memory


class TextModel(Protocol):
    """What `Embeddings` needs of a model."""

    device: torch.device

    def embed(self, prompts: Sequence[str]) -> Cond: ...
    def text_fingerprint(self) -> str: ...


def address(**parts: Any) -> str:
    """The name of what is made of these parts: a sha256 over them."""
    return hashlib.sha256(json.dumps([FORMAT, parts], sort_keys=True).encode()).hexdigest()


class Cache:
    """Named tensors by address, on disk in `folder` (None: nowhere) and the latest `keep` bytes in memory.

    Entries are written aside and renamed, and checked against their own sha256 when read: a damaged one is
    made again, with a warning. hits, misses: how many entries were there, and how many had to be made.
    """

    def __init__(self, folder: Path | None, keep: int = KEEP) -> None:
        self.folder, self.keep = folder, keep
        self.hits = self.misses = self.size = 0
        self.memory: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def __call__(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The entry `name`, made by `make` where it is missing. Do not change the tensors.

        MemoryShortage: the disk is full; DataError: the folder cannot be written.
        """
        path = self.folder and self.folder / f"{name}.safetensors"
        entry = self.memory.get(name) or (data_entries.read(path) if path else None)
        self.hits, self.misses = self.hits + (entry is not None), self.misses + (entry is None)
        if entry is None:
            # copies: views of one tensor cannot be saved, and would keep all of it in memory
            entry = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in make().items()}
            if path:
                data_entries.write(path, entry)
        self.remember(name, entry)
        return entry

    def remember(self, name: str, entry: dict[str, Tensor]) -> None:
        """Keep the entry in memory, as the latest, and forget the oldest beyond `keep` bytes."""
        if name not in self.memory:
            self.size += nbytes(entry)
        self.memory[name] = entry
        self.memory.move_to_end(name)
        while self.size > self.keep and len(self.memory) > 1:
            self.size -= nbytes(self.memory.popitem(last=False)[1])


def nbytes(entry: Mapping[str, Tensor]) -> int:
    """Bytes the entry takes."""
    return sum(tensor.nbytes for tensor in entry.values())


class Embeddings:
    """`model.embed` through a cache, for runs that train no text encoder: nothing here carries gradients.

    Prompts are embedded one by one, so that an embedding does not depend on its neighbours.
    """

    def __init__(self, model: TextModel, folder: Path | None, keep: int = KEEP) -> None:
        # bound now: the caller may put this very object in the place of `model.embed`
        self.embed, self.model, self.encoders = model.embed, model, model.text_fingerprint()
        self.cache = Cache(folder, keep)

    def __call__(self, prompts: Sequence[str]) -> Cond:
        """What the network is told about each prompt, on the model's device."""
        return Cond.cat([unpack(self.entry(prompt)) for prompt in prompts]).map(lambda x: x.to(self.model.device))

    def entry(self, prompt: str) -> dict[str, Tensor]:
        """One prompt's embedding, as named tensors."""
        return self.cache(address(prompt=prompt, encoders=self.encoders), lambda: self.make(prompt))

    @torch.no_grad()
    def make(self, prompt: str) -> dict[str, Tensor]:
        """One prompt's embedding, as named tensors, from the text encoders."""
        return pack(self.embed([prompt]))

    def fill(self, prompts: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Embed all prompts now; yields (done, total)."""
        for done, prompt in enumerate(prompts, 1):
            self.entry(prompt)
            yield done, len(prompts)


def pack(cond: Cond) -> dict[str, Tensor]:
    """A conditioning as named tensors."""
    pooled = {} if cond.pooled is None else {"pooled": cond.pooled}
    return {"tokens": cond.tokens, **pooled, **{f"extra.{key}": tensor for key, tensor in cond.extra.items()}}


def unpack(entry: Mapping[str, Tensor]) -> Cond:
    """The conditioning that `pack` made `entry` of."""
    extra = {key.removeprefix("extra."): tensor for key, tensor in entry.items() if key.startswith("extra.")}
    return Cond(entry["tokens"], entry.get("pooled"), extra)
