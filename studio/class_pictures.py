"""Pictures of the class for prior preservation: a person's own, or made by the base model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.config import RunConfig
from studio.pipelines import prior
from studio.pipelines.data import Dataset
from studio.pipelines.protocols import Backbone


def wanted(config: RunConfig) -> Any:
    """The trainer's settings for them; None when it asks for none."""
    settings = getattr(config.settings, "prior", None)
    return settings if settings is not None and settings.weight else None


def given(config: RunConfig, model: Backbone, dataset: Dataset) -> Dataset | None:
    """A person's own; None when there are none, or none are asked for."""
    settings = wanted(config)
    return read(config, model, dataset, settings.folder) if settings and settings.folder is not None else None


def read(config: RunConfig, model: Backbone, dataset: Dataset, folder: Path) -> Dataset:
    """A folder of them, read as the run's own pictures are, with their prompt and without masks."""
    update = {"folder": folder, "prompt": prompt(config, dataset), "masks": False, "zooms": 0}
    return config.settings.data.model_copy(update=update).read(model)


def prompt(config: RunConfig, dataset: Dataset) -> str:
    """What they show, in words."""
    return str(wanted(config).prompt.replace("{class_word}", dataset.class_word).strip())


def make(config: RunConfig, model: Backbone, dataset: Dataset) -> Iterator[tuple[int, int]]:
    """The base model's, those that are missing; yields (done, total)."""
    yield from prior.pictures(*where(config, model, dataset))


def location(config: RunConfig, model: Backbone, dataset: Dataset) -> Path:
    """Where `make` keeps them."""
    return prior.location(*where(config, model, dataset))


def where(config: RunConfig, model: Backbone, dataset: Dataset) -> tuple[Backbone, str, int, Path, int]:
    """What decides them."""
    cache = config.runs / ".cache" / "prior"
    return model, prompt(config, dataset), wanted(config).images, cache, config.seed
