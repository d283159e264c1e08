"""OCR: is the text that the prompt quotes (a sign that says "open") written in the picture, by TrOCR.

1 - edit distance / length of the quoted text, at least 0; without regard to case and spaces. TrOCR reads one line and
sees the whole picture: it is for pictures that are mostly text. A prompt that quotes nothing is NaN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders.files import REVISION
from studio.pipelines.encoders.ocr import Ocr, ocr
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._sets import finite, unscored
from studio.pipelines.scorers.base import asked
from studio.pipelines.settings import Part

NUMBERS = ("ocr",)
QUOTED = re.compile(r'"([^"]+)"|\u201c([^\u201d]+)\u201d')


class Config(Part):
    """Which reader."""

    encoder: Annotated[str, Field(description="TrOCR in transformers' layout: a folder or a hub id")] = (
        "microsoft/trocr-base-printed"
    )
    revision: Annotated[str, Field(description=REVISION)] = ""


class Legible:
    """How much of the quoted text is read. Not differentiable; raises DataError and ModelError."""

    differentiable = False

    def __init__(self, encoder: Ocr) -> None:
        self.encoder = encoder
        group = f"ocr: 1 - edit distance / length, {encoder.id}"
        self.about = About("ocr", encoder.id, encoder.preprocessing, group, needs=("prompts",), bounds=(0.0, 1.0))

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` in 0..1 and B prompts."""
        wanted = [quoted(prompt) for prompt in asked(prompts, images, self.about.name)]
        found, good = unscored(images), finite(images)
        rows = [row for row in range(len(images)) if good[row] and wanted[row]]
        for row, text in zip(rows, self.encoder.written([images[row] for row in rows]), strict=True):
            found[row] = likeness(text, wanted[row])
        return found


def quoted(prompt: str) -> str:
    """What a prompt has between double quotes, joined by spaces."""
    return " ".join(straight or curly for straight, curly in QUOTED.findall(prompt)).strip()


def likeness(found: str, wanted: str) -> float:
    """1 for the same letters, 0 where as many are wrong as there are."""
    seen, text = (re.sub(r"\s+", "", part).casefold() for part in (found, wanted))
    return 1 - min(distance(seen, text), len(text)) / len(text)


def distance(first: str, second: str) -> int:
    """Levenshtein's: least number of insertions, deletions and changes of one letter."""
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (letter != other))
    return row[-1]


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """ocr. No weights are read before the first call."""
    return [Legible(ocr(config.encoder, config.revision, device, dtype))]
