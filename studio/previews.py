"""Previews: the same prompts and seeds by the adapter and by the base model, during training and at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from studio import guiding, pictures
from studio.pipelines import sampling
from studio.pipelines.captioners.words import twin
from studio.pipelines.data import Dataset
from studio.pipelines.drawing import SCHEDULERS, Drawing
from studio.pipelines.guidance_settings import Guiding
from studio.pipelines.protocols import Backbone
from studio.trainers.base import Previews

DEFAULT_PROMPTS = 3


@dataclass(frozen=True)
class Shot:
    """One preview: a prompt, the seed of its noise, and the prompt as the base model knows it; None: the same."""

    prompt: str
    seed: int
    reference: str | None = None

    @property
    def caption(self) -> str:
        """How a grid names it."""
        return f"{self.prompt}  (seed {self.seed})"


def shots(previews: Previews, dataset: Dataset, asked: Sequence[str] = ()) -> list[Shot]:
    """Every prompt with every seed.

    Without prompts of their own, previews use what the run asks for itself, else the data's first different captions.
    """
    words = {"trigger": dataset.trigger, "class_word": dataset.class_word}
    prompts: Sequence[str] = previews.prompts
    prompts = prompts or list(asked)
    if not prompts:
        prompts = list(dict.fromkeys(example.caption for example in dataset.examples))[:DEFAULT_PROMPTS]
    for key, word in words.items():
        prompts = [" ".join(prompt.replace(f"{{{key}}}", word).split()) for prompt in prompts]
    bases = {example.caption: example.base for example in dataset.examples}
    return [
        Shot(prompt, previews.seed + number, bases.get(prompt) or twin(prompt, **words))
        for prompt in prompts
        for number in range(previews.n)
    ]


def take(model: Backbone, wanted: Sequence[Shot], previews: Previews, base: bool = False) -> Iterator[Image.Image]:
    """The pictures of the shots, by the adapter or (base) without it; the global random state is left as it was.

    Beside an adapter of few steps the base model is drawn as it wants to be. Raises UsageError for a sampler that does
    not fit the model, of whichever the pictures are.
    """
    sampling.by_name(model, previews.sampler)
    drawing = previews.base_drawing if base else previews.drawing
    off = model.adapter.off() if base and model.adapter is not None else nullcontext()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), off:
        for picture in guiding.draw(
            model,
            [shot.prompt for shot in wanted],
            [shot.seed for shot in wanted],
            steps=drawing.steps,
            guidance_scale=drawing.guidance_scale,
            sampler=drawing.sampler,
            how=guidance(previews, base),
            references=[shot.prompt if shot.reference is None else shot.reference for shot in wanted],
        ):
            yield pictures.image(picture)


def guidance(previews: Previews, base: bool = False) -> Guiding:
    """How they are guided; those of the base model have nothing of the adapter's."""
    how = previews.guidance
    return how.without_adapter() if base else how


def about(previews: Previews, base: bool = False) -> dict[str, str]:
    """What is said beside them: the guidance and, where it is not the model's own, the sampler."""
    drawing = previews.base_drawing if base else previews.drawing
    sampler = {} if drawing.sampler == "auto" else {"sampler": drawing.said()}
    return {"guidance": guidance(previews, base).said(), **sampler}


def heads(previews: Previews) -> tuple[str, str]:
    """What stands above the base model's and the adapter's pictures; with their samplers where those differ."""
    base, own = previews.base_drawing, previews.drawing
    return ("base", "adapter") if base == own else (f"base: {base.said()}", f"adapter: {own.said()}")


def stock(previews: Previews, flow: bool = False) -> Previews:
    """The same with the guidance that other tools have, cfg, and a sampler that they have.

    flow: of a flow model, for whose stochastic samplers diffusers takes no seed.
    """
    changed = {} if guidance(previews).plain else {"guidance": Guiding()}
    if previews.sampler not in SCHEDULERS or (flow and previews.drawing.few_step):
        changed |= vars(Drawing("auto", previews.base_steps, previews.base_guidance_scale))
    return previews.model_copy(update=changed) if changed else previews


def save(folder: Path, label: str, wanted: Sequence[Shot], made: Sequence[Image.Image], **about: object) -> list[Path]:
    """Write `samples/<label>-<number>.png`, each with prompt, seed and `about` in its metadata."""
    return [
        pictures.save(picture, folder / f"{label}-{number:02}.png", prompt=shot.prompt, seed=shot.seed, **about)
        for number, (shot, picture) in enumerate(zip(wanted, made, strict=True))
    ]


def load(folder: Path, label: str, wanted: Sequence[Shot]) -> list[Image.Image]:
    """Pictures saved before under this label for these very shots; [] when any is missing or of another shot."""
    found: list[Image.Image] = []
    for number, shot in enumerate(wanted):
        path = folder / f"{label}-{number:02}.png"
        if not path.is_file():
            return []
        with Image.open(path) as picture:
            picture.load()
        if (picture.info.get("prompt"), picture.info.get("seed")) != (shot.prompt, str(shot.seed)):
            return []
        found.append(picture)
    return found
