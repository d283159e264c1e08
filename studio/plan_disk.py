"""What a run writes: bytes of checkpoints, cache, pictures and adapter files."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from studio import checkpoints, subjects
from studio.config import RunConfig
from studio.pipelines.data import Dataset
from studio.pipelines.errors import DiskError, StudioError
from studio.pipelines.protocols import Backbone
from studio.plan_live import nbytes
from studio.plan_weights import STATE, Weights
from studio.previews import DEFAULT_PROMPTS
from studio.store import Run
from studio.trainers.base import Settings

BYTES_PER_PIXEL = 2.0  # of a PNG of a photo; drawings take less
HEADERS = 2**16  # of one file of tensors


def shots(config: RunConfig) -> int:
    """Pictures of one round of previews."""
    previews = config.settings.previews
    return (len(previews.prompts) or DEFAULT_PROMPTS) * previews.n


def rounds(config: RunConfig) -> int:
    """Rounds of previews: the base model's, those on the way, the last."""
    settings = config.settings
    return 2 + (settings.steps - 1) // settings.previews.every if settings.previews.every else 2


def saves(config: RunConfig) -> int:
    """Checkpoints that lie there at the same time: those kept, and the one being written."""
    settings = config.settings
    written = -(-settings.steps // settings.save_every) if settings.save_every else 1
    kept = settings.keep_last + len(settings.keep_steps) + settings.keep_best if settings.keep_last else written
    return min(written, kept + 1) + (settings.save_minutes > 0)


def makes_class_pictures(config: RunConfig) -> bool:
    """Whether the base model draws pictures of the class first."""
    prior = getattr(config.settings, "prior", None)
    return prior is not None and bool(prior.weight) and prior.folder is None


def scored(config: RunConfig) -> bool:
    """Whether the finished adapter is scored on an embedded subject."""
    folder = config.settings.data.folder
    return config.model == "embedded" and folder is not None and subjects.about(folder).get("kind") == "subject"


def pictures(config: RunConfig) -> int:
    """Pictures in the data's folder; 0 when it cannot be read."""
    try:
        return len(config.settings.data.listing().found)
    except StudioError:
        return 0


def disk(config: RunConfig, model: Backbone, weights: Weights) -> dict[str, int]:
    """Bytes by kind."""
    settings = config.settings
    side = settings.data.resolution or model.pixels
    channels, height, width = model.latent_shape(side, side)
    moments = 2 * 4 * channels * height * width
    made = config.settings.prior.images if makes_class_pictures(config) else 0  # type: ignore[attr-defined]
    entries = (pictures(config) * max(1, settings.data.zooms) + made) * (1 + settings.data.flip)
    checkpoint = weights.adapter + weights.optimizer + weights.ema + HEADERS
    drawn = int(BYTES_PER_PIXEL * model.pixels**2)
    return {
        "checkpoints": saves(config) * checkpoint,
        "cache": entries * (moments + HEADERS) + made * drawn,
        "samples": shots(config) * rounds(config) * drawn,
        "adapter": 2 * weights.adapter + HEADERS,
    }


def refuse(config: RunConfig, model: Backbone, data: Iterable[Dataset | None], run: Run) -> None:
    """Raises DiskError when what is certain to be written does not fit beside what lies there. Nothing is written.

    model: with its adapter; data: the pictures, which the cache will hold; run: with what an earlier start left.
    """
    place = next(folder for folder in (run.folder, *run.folder.parents) if folder.is_dir())
    free = room(place) or sys.maxsize
    need = least(config, model, data, checkpoints.steps(run.checkpoints))
    if sum(need.values()) <= free:
        return
    cached = sum(file.stat().st_size for file in (config.runs / ".cache").rglob("*") if file.is_file())
    need["cache"] = max(0, need["cache"] - cached)
    if (total := sum(need.values())) > free:
        parts = ", ".join(f"{name} {words(size)}" for name, size in need.items() if size)
        raise DiskError(
            f"not enough disk in {place}: the run writes at least {words(total)} ({parts}), {words(free)} are free; "
            "make room, keep fewer checkpoints (keep_last), or give other --runs"
        )


def room(place: Path) -> int:
    """Free bytes where a folder is, or will be; 0 where the file system does not say."""
    there = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.is_dir()))
    return there.free if there.total else 0


def words(size: int) -> str:
    """Bytes as kB, MiB or GiB."""
    unit, name = next(((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB")) if size >= u), (1000, "kB"))
    return f"{size / unit:.1f} {name}"


def least(config: RunConfig, model: Backbone, data: Iterable[Dataset | None], there: Collection[int]) -> dict[str, int]:
    """Bytes by kind that a run takes at its peak, beyond the checkpoints of the steps that are `there`, at least.

    Pictures, whose compression nobody knows, and checkpoints that only the clock or a score asks for, are left out.
    """
    settings, learn = config.settings, [] if model.adapter is None else model.adapter.parameters()
    adapter = nbytes(learn)
    state = sum(STATE[settings.optimizer](parameter) for parameter in learn) if settings.optimizer in STATE else 0
    checkpoint = adapter * (2 if settings.ema else 1) + state
    latents = 0
    for part in (part for part in data if part is not None and part.settings.crop == "center"):
        for _, (width, height) in {(example.content, example.bucket) for example in part.examples}:
            latents += 2 * 4 * math.prod(model.latent_shape(height, width)) * (1 + part.settings.flip)
    most, last = standing(settings, there)
    return {"checkpoints": most * checkpoint, "cache": latents, "adapter": adapter if most == last else 0}


def standing(settings: Settings, there: Collection[int]) -> tuple[int, int]:
    """How many checkpoints more than are `there` lie side by side at most, and when the run ends.

    The oldest goes only after the newest stands.
    """
    begun, every = max(there, default=0), settings.save_every
    new = {*range(every, settings.steps, every), settings.steps} if every else {settings.steps}
    new = {step for step in new if step > begun}
    written = sorted({*there, *new})
    if not settings.keep_last or not new:
        return len(new), len(new)
    pinned = {*written} & {*settings.keep_steps}
    most, last = (len({*written[-count:], *pinned}) for count in (settings.keep_last + 1, settings.keep_last))
    return max(1, most - len(there)), max(0, last - len(there))
