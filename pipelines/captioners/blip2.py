"""BLIP-2: one sentence per picture, by a language model (Li et al. 2023); 7.5 GB on a GPU, 15 GB on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from studio.pipelines.captioners import base
from studio.pipelines.captioners.base import LONG, Captioner, Written
from studio.pipelines.captioners.loading import read

if TYPE_CHECKING:
    import torch


class Config(base.Config):
    """BLIP-2's settings."""

    model: Annotated[str, Field(min_length=1, description="A folder in transformers' layout, or a hub id")] = (
        "Salesforce/blip2-opt-2.7b"
    )


def build(config: Config, device: torch.device, dtype: torch.dtype) -> Captioner:
    """The captioner; no weights are read yet."""
    return Written(config, device, dtype, load, least=LONG if config.style == "comprehensive" else 0)


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor. Raises ModelError."""
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    return read(folder, "blip-2", Blip2ForConditionalGeneration, Blip2Processor, device, dtype)
