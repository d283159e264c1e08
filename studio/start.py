"""The adapter that a run begins with: a fresh one, or the one in a file that it goes on from (`settings.start`)."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.pipelines import drawing
from studio.pipelines.assets import assets_folder
from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.config import RunConfig
    from studio.pipelines.adapters.together import Naming
    from studio.pipelines.data import Dataset
    from studio.pipelines.protocols import Adapter, Backbone
    from studio.trainers.base import Settings

NAME = "adapter.safetensors"  # in a finished run's folder
STATE = "start"  # in a trainer's memory: the weights that the run began with


def file(settings: Settings) -> Path | None:
    """The adapter file that `start` means: itself, a run's, or the studio's own. Raises UsageError."""
    if settings.start is None:
        return None
    if str(settings.start) == drawing.EMBEDDED:
        return assets_folder() / "base" / "lcm" / NAME
    path = settings.start / NAME if settings.start.is_dir() else settings.start
    if not path.is_file():
        what = "a run without an adapter.safetensors" if settings.start.is_dir() else "not there"
        known = f"an adapter file, a finished run's folder or {drawing.EMBEDDED}"
        raise UsageError(f"start: {settings.start} is {what}; name {known}")
    return path


def adapter(settings: Settings, model: Backbone, dataset: Naming) -> Adapter:
    """The adapter, in the model. dataset: or its words alone. Raises UsageError and ModelError."""
    from studio.pipelines.adapters import files, together

    path = file(settings)
    if path is None:
        return together.build(settings.adapter, settings.tokens, model, dataset)
    if settings.tokens.words:
        raise UsageError("start: new words cannot be added to an adapter that goes on; take tokens.words out")
    return files.load(model, path)


def again(settings: Settings, model: Backbone, words: Naming, own: Path) -> Adapter:
    """The adapter of a run that is over, in the model, to be filled with weights of it.

    own: the file that the run left; where its start is gone, that says kind and rank. Raises as `adapter`.
    """
    from studio.pipelines.adapters import files

    if settings.start is not None and not settings.start.exists() and own.is_file():
        return files.load(model, own)
    return adapter(settings, model, words)


def resolve(config: RunConfig) -> RunConfig:
    """The config with the very file in the place of what stands for it, and the words that it was taught."""
    from studio.pipelines.adapters import files

    path = file(config.settings)
    if path is None:
        return config
    data, about = config.settings.data, files.header(path)
    words = {key: about.get(key, "") for key in ("trigger", "class_word") if not getattr(data, key)}
    settings = config.settings.model_copy(update={"start": path.absolute(), "data": data.model_copy(update=words)})
    return config.model_copy(update={"settings": settings})


def fingerprint(settings: Settings) -> str:
    """sha256 of the file; '' for a fresh adapter."""
    path = file(settings)
    return sha256(path.read_bytes()).hexdigest() if path else ""


def doubts(settings: Settings, dataset: Dataset) -> Iterator[str]:
    """What is said where the file was taught another trigger than the run's, or few steps and the run draws in many."""
    from studio.pipelines.adapters import files

    path = file(settings)
    if path is None:
        return
    header = files.header(path)
    taught, own, sampler = header.get("trigger", ""), drawing.read(header, path), getattr(settings, "sampler", "")
    if taught and taught != dataset.trigger:
        yield f"start: {path.name} was taught to call its subject {taught!r}, this run says {dataset.trigger!r}"
    if own is not None and own.few_step and sampler and not drawing.Drawing(sampler).few_step:
        yield f"start: {path.name} is made for {own.said()}; this run draws with sampler = {sampler}"


def remember(settings: Settings, adapter: Adapter, memory: dict[str, Any]) -> None:
    """Before the first step: the weights that the run began with, for whoever compares with them."""
    if settings.start is not None:
        memory[STATE] = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
