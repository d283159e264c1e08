"""Draws what an evaluation wants to see, in large batches; a picture that is already there is not made again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio import pictures
from studio.evaluation.records import Made, Source
from studio.evaluation.sets import Wanted
from studio.pipelines import data_tokens, sampling
from studio.pipelines.drawing import Drawing
from studio.pipelines.outline import limits
from studio.pipelines.protocols import Backbone
from studio.pipelines.weights import digest

FOLDER = "pictures"
CPU_PIXELS = 32 * 64 * 64  # of a batch; measured on the embedded model: more is not faster
GPU_BYTES = 4096  # per pixel of a batch, guidance and decoding included
MOST = 64


@dataclass(frozen=True)
class How:
    """How pictures are drawn. batch: pictures at once, 0: as many as are useful."""

    steps: int = 20
    guidance_scale: float = 4.0
    sampler: str = "auto"
    batch: int = 0

    @property
    def drawing(self) -> Drawing:
        """What of it a person reads."""
        return Drawing(self.sampler, self.steps, self.guidance_scale)

    @staticmethod
    def of(drawing: Drawing, batch: int = 0) -> How:
        """How a drawing is made in large batches."""
        return How(drawing.steps, drawing.guidance_scale, drawing.sampler, batch)


@dataclass
class Drawn:
    """One source's pictures. pictures: uint8 `[3, H, W]` each, None where the model made no finite one.

    uncalled: the sets that leave the trigger out.
    """

    source: Source
    wanted: list[Wanted]
    made: list[Made]
    pictures: list[Tensor | None]
    uncalled: frozenset[str] = frozenset()

    def batch(self, rows: Sequence[int]) -> Tensor:
        """Pictures `[B, 3, H, W]` in 0..1; NaN where there is none."""
        size = next((picture.shape for picture in self.pictures if picture is not None), (3, 8, 8))
        empty = torch.full(size, float("nan"))
        found = (self.pictures[row] for row in rows)
        return torch.stack([empty if picture is None else picture.float() / 255 for picture in found])

    def rows(self, of: str | None) -> list[int]:
        """The rows of a set; None: of every set that calls the subject."""
        if of is not None:
            return [row for row, one in enumerate(self.wanted) if one.set == of]
        return [row for row, one in enumerate(self.wanted) if one.set not in self.uncalled]


@dataclass
class Gallery:
    """Draws one source's pictures into `folder / pictures / label` (None: keeps them in memory alone).

    The model's adapter is the source's at its strength; see `is_base`. `run` yields
    (done, total); what was drawn before it was interrupted is kept. kept: pictures by key, also another gallery's.
    """

    model: Backbone
    source: Source
    wanted: Sequence[Wanted]
    how: How = How()
    folder: Path | None = None
    uncalled: frozenset[str] = frozenset()
    kept: dict[str, Tensor | None] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    written: set[Path] = field(default_factory=set)

    def run(self) -> Iterator[tuple[int, int]]:
        """Read what is there, draw what is missing."""
        about = self.what_decides()
        self.keys = [key(about, one) for one in self.wanted]
        for one, name in zip(self.wanted, self.keys, strict=True):
            if (file := self.file(one)) and (found := read(file, name)):
                self.kept[name] = found[0]
                self.written.add(file)
        yield self.done(), len(self.wanted)
        missing = {name: one for one, name in zip(self.wanted, self.keys, strict=True) if name not in self.kept}
        for (name, one), picture in zip(missing.items(), self.draw(list(missing.values())), strict=True):
            finite = bool(torch.isfinite(picture).all())
            self.kept[name] = picture.float().mul(255).round().clamp(0, 255).byte().cpu() if finite else None
            self.save(one, name)
            yield self.done(), len(self.wanted)
        for one, name in zip(self.wanted, self.keys, strict=True):  # the same prompt and seed in another set
            self.save(one, name)

    def what_decides(self) -> list[object]:
        """Everything that decides a picture beside its prompt and seed."""
        adapter = None if is_base(self.source) else self.model.adapter
        learned = digest(adapter.state_dict()) if adapter is not None else ""
        sampler = sampling.by_name(self.model, self.how.sampler).__name__
        drawn = [sampler, self.how.steps, self.how.guidance_scale, self.model.pixels, str(self.model.dtype)]
        drawn += ["merged"] if learned else []
        return [self.model.fingerprint(), learned, self.source.strength if learned else 1.0, *drawn]

    def draw(self, rest: list[Wanted]) -> Iterator[Tensor]:
        """The pictures, in order; a batch that does not fit into a GPU's memory is halved."""
        adapter, called = self.model.adapter, not is_base(self.source)
        batch = self.how.batch or useful(self.model)
        with ExitStack() as held:
            devices = [self.model.device] if self.model.device.type == "cuda" else []
            held.enter_context(torch.random.fork_rng(devices=devices))
            if adapter is not None:
                held.enter_context(adapter.merged(self.source.strength) if called else adapter.off())
            while rest:
                prompts, seeds, done = [one.prompt for one in rest], [one.seed for one in rest], 0
                options: dict[str, Any] = {"steps": self.how.steps, "guidance_scale": self.how.guidance_scale}
                try:
                    for picture in sampling.sample(
                        self.model, prompts, seeds, batch=batch, sampler=self.how.sampler, **options
                    ):
                        done += 1
                        yield picture
                except torch.OutOfMemoryError:
                    if batch == 1:
                        raise
                    batch //= 2
                    torch.cuda.empty_cache()
                rest = rest[done:]

    def file(self, one: Wanted) -> Path | None:
        """Where a picture lies."""
        return self.folder / name(self.source.label, one) if self.folder is not None else None

    def save(self, one: Wanted, key: str) -> None:
        """Write a picture, unless it is there."""
        file, picture = self.file(one), self.kept[key]
        if file is None or file in self.written:
            return
        about = {"prompt": one.prompt, "seed": one.seed, "source": self.source.label, "key": key}
        about |= {} if picture is not None else {"finite": "no"}
        black = torch.zeros(3, self.model.pixels, self.model.pixels)
        pictures.save(pictures.image(black if picture is None else picture.float() / 255), file, **about)
        self.written.add(file)

    def done(self) -> int:
        """How many pictures are there."""
        return sum(name in self.kept for name in self.keys)

    def result(self) -> Drawn:
        """The pictures after `run`."""
        made = [
            Made(name(self.source.label, one) if self.folder else "", self.source.label, one.set, one.template,
                 one.prompt, one.plain, one.seed)
            for one in self.wanted
        ]  # fmt: skip
        return Drawn(self.source, list(self.wanted), made, [self.kept[key] for key in self.keys], self.uncalled)


def is_base(source: Source) -> bool:
    """Whether a source is the base model: it names no file of an adapter and no step of a training."""
    return not source.file and not source.step


def key(about: Sequence[object], one: Wanted) -> str:
    """The name of one picture, whatever folder it lies in."""
    return hashlib.sha256(json.dumps([*about, one.prompt, one.seed], default=str).encode()).hexdigest()


def name(label: str, one: Wanted) -> str:
    """A picture's file below the evaluation's folder."""
    return f"{FOLDER}/{plain(label)}/{one.set}-{one.number:02}-{one.seed}.png"


def plain(label: str) -> str:
    """A label as a folder's name."""
    return re.sub(r"[^\w.@-]+", "-", label).strip(".-") or "source"


def read(file: Path, key: str) -> tuple[Tensor | None] | None:
    """A picture `[3, H, W]` uint8 that was kept under this key, in a tuple; None where it is another or none."""
    try:
        with Image.open(file) as picture:
            picture.load()
            if picture.info.get("key") != key:
                return None
            pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
            return (None if picture.info.get("finite") == "no" else pixels,)
    except (OSError, SyntaxError, ValueError):  # not there, or damaged: drawn again
        return None


def useful(model: Backbone) -> int:
    """Pictures at once: as many as fit on a GPU, on a CPU as many as bring something."""
    area = model.pixels**2
    if model.device.type != "cuda":
        return max(1, min(MOST, CPU_PIXELS // area))
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1, min(MOST, int(0.7 * free) // (area * GPU_BYTES)))


def unread(model: Backbone, source: str, prompts: Sequence[str]) -> Iterator[str]:
    """A sentence when the model does not read some prompts to their end. source: the model's name."""
    counted = data_tokens.count_all(model.tokenizers, prompts, limits(type(model).__module__)).values()
    cut = [rows for rows in zip(prompts, *counted, strict=True) if all(tokens.cut for tokens in rows[1:])]
    if cut and counted:
        tokens = max(cut[0][1:], key=lambda one: one.limit)
        many = "a prompt" if len(cut) == 1 else f"{len(cut)} prompts"
        yield f"{source} reads {tokens.limit} tokens: the end of {many} is not drawn, such as '{shortened(tokens.cut)}'"


def shortened(text: str, most: int = 60) -> str:
    """A text whose middle is left out where it is long."""
    return text if len(text) <= most else f"{text[: most // 2].rstrip()} ... {text[-most // 2 :].lstrip()}"
