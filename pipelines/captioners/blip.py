"""BLIP: one short sentence per picture (Li et al. 2022); 1 GB, runs on a CPU. `-large` is wordier, 1.9 GB."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from studio.pipelines.captioners import base
from studio.pipelines.captioners.base import LONG, Captioner, Written
from studio.pipelines.captioners.loading import read
from studio.pipelines.captioners.words import article

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NOISE = re.compile(r"\b(an? )?araf(?!at)\w* (\w+)", re.IGNORECASE)  # "arafed", "araffe": non-words of the large model


class Config(base.Config):
    """BLIP's settings."""

    model: Annotated[str, Field(min_length=1, description="A folder in transformers' layout, or a hub id")] = (
        "Salesforce/blip-image-captioning-base"
    )


class Blip(Written):
    """BLIP without the non-words it learned from its own synthetic captions."""

    def some(self, pictures: Sequence[Tensor]) -> list[str]:
        return [NOISE.sub(bare, line) for line in super().some(pictures)]


def bare(found: re.Match[str]) -> str:
    """The noun after a non-word, with its article if there is one."""
    return f"{article(found[2])} {found[2]}" if found[1] else found[2]


def build(config: Config, device: torch.device, dtype: torch.dtype) -> Captioner:
    """The captioner; no weights are read yet."""
    return Blip(config, device, dtype, load, least=LONG if config.style == "comprehensive" else 0)


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor. Raises ModelError."""
    from transformers import BlipForConditionalGeneration, BlipProcessor

    return read(folder, "blip", BlipForConditionalGeneration, BlipProcessor, device, dtype)
