"""A run's previews once more, by its newest checkpoint: for a run that is not at work, finished or not."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from studio import previews
from studio.choice_weights import holding, usable
from studio.events import Event
from studio.materials import Materials
from studio.pipelines.errors import UsageError
from studio.store import Run


def draw(run: Run) -> list[Path]:
    """The run's own prompts and seeds by its newest whole checkpoint, into samples/ beside the others.

    Raises UsageError where there is no such checkpoint, or while another process trains the run.
    """
    config = run.config()
    settings = config.settings
    with run.alone():
        kept = usable(run.checkpoints)
        if not kept:
            raise UsageError(f"the run '{run.name}' has no whole checkpoint to draw with: go on with it first")
        step = max(kept)
        made = Materials.gather(config, lambda: None)
        shots = previews.shots(settings.previews, made.dataset, asked(run))
        with holding(settings, made.model, made.adapter, kept[step]):
            drawn = list(previews.take(made.model, shots, settings.previews))
        paths = previews.save(run.samples, f"{step:06}", shots, drawn, **previews.about(settings.previews))
        said = {"path": str(paths[0].relative_to(run.folder)), "pictures": len(paths)}
        run.log(Event("preview", step, event="preview", fields=said))
    return paths


def asked(run: Run) -> list[str]:
    """The prompts of the base model's previews, each once."""
    prompts = []
    for path in sorted(run.samples.glob("base-*.png")):
        with Image.open(path) as picture:
            prompts.append(str(picture.info.get("prompt", "")))
    return [prompt for prompt in dict.fromkeys(prompts) if prompt]
