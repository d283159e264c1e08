"""A run's checkpoint as an adapter file, so that it can be drawn like any other; kept in RUNS/.cache/checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from studio import checkpoints, start
from studio.checkpoints import Checkpoint
from studio.choice_weights import holding
from studio.pipelines.adapters import files, together
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Backbone
from studio.store import Run

KEPT = 24  # files; the ones that were made first go


def adapter_file(run: Run, step: int, model_of: Callable[[str], Backbone]) -> Path:
    """The adapter file of a checkpoint, written the first time. model_of: the base model of a name, empty.

    Raises ModelError for a damaged checkpoint, UsageError for one of a search for settings, which is no adapter yet.
    """
    folder = run.checkpoints / f"step-{step:06d}"
    mark = checkpoints.digest(folder / "manifest.json")[:12] if (folder / "manifest.json").is_file() else "none"
    place = run.folder.parent / ".cache" / "checkpoints" / f"{run.name}-{step:06d}-{mark}"
    if not (place / files.NAME).is_file():
        write(run, whole(folder), place, model_of)
        prune(place.parent)
    return place / files.NAME


def whole(folder: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises ModelError, UsageError as `adapter_file`."""
    if reason := checkpoints.damage(folder):
        raise ModelError(f"the checkpoint {folder.name} cannot be drawn: {reason}; choose another one")
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    if any(key == "trial" for key, _ in meta["memory"]["dict"]):
        raise UsageError(f"{folder.name} is of a search that the training begins anew after; choose a later one")
    return Checkpoint(folder, int(meta.pop("step")), meta)


def write(run: Run, found: Checkpoint, place: Path, model_of: Callable[[str], Backbone]) -> None:
    """The file, staged beside its place and renamed."""
    config = run.config()
    settings, data, model = config.settings, config.settings.data, model_of(config.model)
    own = files.header(run.folder / files.NAME) if (run.folder / files.NAME).is_file() else {}
    words = together.Words(own.get("trigger", data.trigger), own.get("class_word", data.class_word))
    about = {"trigger": words.trigger, "class_word": words.class_word, "base_model": config.model}
    about |= {"step": str(found.step), **settings.previews.drawing.header}
    adapter = start.again(settings, model, words, run.folder / files.NAME)
    stage = place.with_name(f".{place.name}-{os.getpid()}")
    stage.mkdir(parents=True, exist_ok=True)
    try:
        with holding(settings, model, adapter, found):
            files.save(model, adapter, stage / files.NAME, {key: text for key, text in about.items() if text})
        stage.replace(place)
    finally:
        adapter.remove()
        shutil.rmtree(stage, ignore_errors=True)


def prune(folder: Path) -> None:
    """Only the newest files stay."""
    made = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in made[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
