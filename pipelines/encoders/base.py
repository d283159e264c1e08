"""An encoder of pictures and texts: unit features in batches, remembered by content, its weights read at first use."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.pipelines import checkpoints
from studio.pipelines.cache import Cache
from studio.pipelines.encoders.files import load_or_refuse, local, pinned, place, said
from studio.pipelines.encoders.framing import Framing, prepare, rows
from studio.pipelines.errors import DataError

__all__ = [
    "Encoder", "Loaded", "forget", "given", "load_or_refuse", "memoised", "name", "place", "precision", "prepare",
    "rows", "shared",
]  # fmt: skip

BATCH = 32
KEEP = 2**28  # bytes of features an encoder remembers
Kind = TypeVar("Kind", bound="Encoder")
Make = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Loaded:
    """What an encoder's files hold. tokenizer: None without a text side; longest: tokens that are read of a text."""

    model: Any
    framing: Framing
    tokenizer: Any = None
    longest: int = 0

    def count(self, prompt: str) -> int:
        """How many tokens a prompt has."""
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids)


class Encoder(ABC):
    """A frozen image or image-text encoder. Nothing is read before the first question; ModelError comes then.

    id: source and revision; preprocessing: what happens to pictures, in words.
    """

    preprocessing: str

    def __init__(self, source: str, revision: str, device: torch.device, dtype: torch.dtype) -> None:
        self.source, self.revision, self.device = source, pinned(source, revision), device
        self.dtype = precision(device, dtype)
        self.id = name(source, revision)
        self.memo = Cache(None, KEEP)
        self.texts: dict[str, Tensor] = {}

    @abstractmethod
    def load(self, folder: Path) -> Loaded: ...

    @abstractmethod
    def look(self, x: Tensor) -> Tensor:
        """Features `[B, D]`, of any length, of prepared pictures."""

    def read(self, tokens: dict[str, Tensor]) -> Tensor:
        """Features `[B, D]`, of any length, of tokens."""
        raise TypeError(f"{type(self).__name__} reads no text")

    def patches(self, x: Tensor) -> Tensor:
        """Features `[B, N, D]` of the patches of prepared pictures, row by row."""
        raise TypeError(f"{type(self).__name__} has no patches")

    @cached_property
    def loaded(self) -> Loaded:
        """Network, framing and tokenizer. Raises ModelError when they cannot be had."""
        return load_or_refuse(self.id, lambda: self.load(place(self.source, self.revision)))

    def expected(self) -> None:
        """Raises ModelError where its files are not on this machine and the hub does not answer; reads nothing."""
        local(self.source, self.revision)

    def image_features(self, pictures: Iterable[Tensor]) -> Tensor:
        """Unit `[B, D]` float32 of pictures `[3 or 4, h, w]` in 0..1; NaN rows for pictures that hold NaN."""
        return rows([p[:3] for p in pictures], lambda good: memoised(self.memo, "image", good, self._look, self.device))

    def patch_features(self, pictures: Iterable[Tensor]) -> tuple[Tensor, tuple[int, int]]:
        """Unit `[B, N, D]` float32, row by row, and (rows, columns); N = rows x columns."""
        found = rows(
            [p[:3] for p in pictures], lambda good: memoised(self.memo, "patch", good, self._patches, self.device)
        )
        side = round(found.shape[1] ** 0.5)  # pictures are cut square
        return found, (side, found.shape[1] // side)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit `[B, D]` float32; each prompt is encoded once. Longer prompts are cut: `cut` tells which."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.texts]
        for start in range(0, len(new), BATCH):
            chunk = new[start : start + BATCH]
            tokens = self.loaded.tokenizer(
                chunk, padding="max_length", truncation=True, max_length=self.loaded.longest, return_tensors="pt"
            )
            features = F.normalize(self.read({k: v.to(self.device) for k, v in tokens.items()}).float(), dim=-1)
            self.texts.update(zip(chunk, features, strict=True))
        return torch.stack([self.texts[prompt] for prompt in prompts])

    def cut(self, prompts: Sequence[str]) -> list[str]:
        """One sentence for each prompt that is longer than the encoder reads. Raises ModelError as features do."""
        read, count = self.loaded.longest, self.loaded.count
        return [
            f"{self.source} reads {read} tokens: the last {count(prompt) - read} of {prompt[:60]!r} are not scored"
            for prompt in dict.fromkeys(prompts)
            if count(prompt) > read
        ]

    def _look(self, pictures: list[Tensor]) -> Tensor:
        x = self.loaded.framing([p.to(self.device) for p in pictures])
        return F.normalize(self.look(x.to(self.dtype)).float(), dim=-1)

    def _patches(self, pictures: list[Tensor]) -> Tensor:
        x = self.loaded.framing([p.to(self.device) for p in pictures])
        return F.normalize(self.patches(x.to(self.dtype)).float(), dim=-1)


def memoised(memo: Cache, kind: str, pictures: Sequence[Tensor], make: Make, device: torch.device) -> Tensor:
    """`make(pictures)` in batches; without a gradient each picture is worked on once, however often it is asked for.

    kind: of the number, since one memo may hold several; device: where the result is wanted.
    """
    if torch.is_grad_enabled() and any(picture.requires_grad for picture in pictures):
        return torch.cat([make(list(chunk)) for chunk in batches(pictures)])
    names = [f"{kind} {content(picture)}" for picture in pictures]
    found = {key: entry["row"] for key in names if (entry := memo.memory.get(key))}
    new = {key: picture for key, picture in zip(names, pictures, strict=True) if key not in found}
    with torch.no_grad():
        for chunk in batches(list(new)):
            for key, row in zip(chunk, make([new[key] for key in chunk]).cpu(), strict=True):
                found[key] = row.clone()
                memo.remember(key, {"row": found[key]})
    return torch.stack([found[key] for key in names]).to(device)


def batches(items: Sequence[Any], size: int = BATCH) -> Iterator[Sequence[Any]]:
    """`items` in pieces."""
    return (items[start : start + size] for start in range(0, len(items), size))


def content(picture: Tensor) -> str:
    """sha256 of a picture's shape and values."""
    values = picture.detach().cpu().contiguous()
    total = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    total.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def given(references: Sequence[Tensor] | None, scorer: str) -> list[Tensor]:
    """The references as a list. Raises DataError when there are none, or one holds a value that is no number."""
    found = list(references) if references is not None else []
    if not found:
        raise DataError(f"{scorer} needs reference pictures of the subject; give a folder with some")
    for number, picture in enumerate(found, 1):
        if not bool(picture.isfinite().all()):
            raise DataError(f"reference picture {number} holds values that are no numbers; leave it out")
    return found


@cache
def _shared(kind: type[Encoder], source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Encoder:
    return kind(source, revision, device, dtype)


def shared(kind: type[Kind], source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Kind:
    """The process's one encoder of these five, made when first asked for."""
    return cast(Kind, _shared(kind, source, revision, device, precision(device, dtype)))


def forget() -> None:
    """Drop the process's encoders: the memory of those that nobody else holds comes back."""
    _shared.cache_clear()


def name(source: str, revision: str) -> str:
    """How an encoder is named in tables and errors; a folder has no revision."""
    return source if checkpoints.place(source)[1] else f"{source}@{said(source, revision)}"


def precision(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Half precision on an accelerator where that is asked for; on a CPU always float32."""
    return torch.float32 if device.type == "cpu" else dtype
