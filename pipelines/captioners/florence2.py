"""Florence-2: a sentence, or several that leave little out (Xiao et al. 2023); 0.5 GB, runs on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from studio.pipelines import model_files
from studio.pipelines.captioners import base
from studio.pipelines.captioners.base import Captioner, Written
from studio.pipelines.captioners.loading import read
from studio.pipelines.errors import ModelError

if TYPE_CHECKING:
    import torch

MODEL = "florence-community/Florence-2-base"
TASKS = {"plain": "<CAPTION>", "comprehensive": "<DETAILED_CAPTION>"}


class Config(base.Config):
    """Florence-2's settings."""

    model: Annotated[str, Field(min_length=1, description="A folder in transformers' layout, or a hub id")] = MODEL


def build(config: Config, device: torch.device, dtype: torch.dtype) -> Captioner:
    """The captioner; no weights are read yet."""
    return Written(config, device, dtype, load, TASKS[config.style])


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor. Raises ModelError."""
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

    if "auto_map" in model_files.read_json(folder / "config.json"):
        raise ModelError(f"{folder}: wants code of its own, which is not run; use {MODEL}, the same weights without it")
    return read(folder, "florence2", Florence2ForConditionalGeneration, Florence2Processor, device, dtype)
