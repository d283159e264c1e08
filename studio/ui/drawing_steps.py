"""The pictures of recipes step by step, with the estimate of each on the way. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from studio import guiding, pictures, sample
from studio.pipelines import conditioner, sampling
from studio.pipelines.guidance_hearing import hearing, hears
from studio.pipelines.protocols import Backbone
from studio.sample import Column, Models
from studio.ui.drawing_room import Drawn, Frame
from studio.ui.recipes import Recipe

BATCH = 4  # pictures drawn at once
EARLY = 5  # estimates shown on the way to a picture
PAUSE = 0.2  # seconds between two frames


def column(recipe: Recipe, runs: Path, models: Models) -> Column:
    """A recipe's sources with what their files say. Raises as `sample.find`, and for samplers that do not fit."""
    found = [sample.find(name, recipe.model, runs, models) for name in recipe.sources]
    return sample.columns(found, recipe.how())[0]


def frames(recipes: Sequence[Recipe], runs: Path, models: Models, stopped: Callable[[], bool]) -> Iterator[Frame]:
    """Every picture, those of one base model and of the same adapters together. Ends early when `stopped`."""
    groups: dict[Recipe, list[int]] = {}
    for number, recipe in enumerate(recipes):
        groups.setdefault(likeness(recipe), []).append(number)
    known = {key: column(key, runs, models) for key in groups}
    notes, bases = removed(recipes), list(dict.fromkeys(here.model for here in known.values()))
    done: dict[int, Drawn] = {}
    last = time.monotonic() - PAUSE
    for key, numbers in sorted(groups.items(), key=lambda pair: bases.index(known[pair[0]].model)):
        here = known[key]
        blanks = here.blanks([key.negative, *(recipes[number].prompt for number in numbers)])
        notes = tuple(dict.fromkeys([*notes, *here.doubts(key.how(), bool(hears(models(here.model)))), *blanks]))
        for first in range(0, len(numbers), BATCH):
            these = numbers[first : first + BATCH]
            chosen = [recipes[number] for number in these]
            for step, shown in batch(models(here.model), here, chosen):
                if stopped():
                    yield Frame(f"stopped: {len(done)} of {len(recipes)} pictures are drawn", 1.0, (), done, notes)
                    return
                if step > here.drawing.steps:
                    made = [recipe.model_copy(update=vars(here.drawing)) for recipe in chosen]
                    done = {**done, **dict(zip(these, map(Drawn, made, shown), strict=True))}
                    shown = []
                elif not shown and time.monotonic() - last < PAUSE:
                    continue
                last = time.monotonic()
                yield progress(step, here.drawing.steps, len(these), len(recipes), shown, done, notes)


def progress(
    step: int,
    steps: int,
    here: int,
    count: int,
    shown: Sequence[Image.Image],
    done: dict[int, Drawn],
    notes: tuple[str, ...],
) -> Frame:
    """What is done so far."""
    if len(done) == count:
        return Frame(f"{count} picture{'s' * (count != 1)} drawn", 1.0, (), done, notes)
    part = min(step, steps) / steps if step <= steps else 0.0
    said = f"{len(done)} of {count} pictures drawn" + (f"; step {step} of {steps}" if step <= steps else "")
    return Frame(said, (len(done) + here * part) / count, tuple(shown), done, notes)


def likeness(recipe: Recipe) -> Recipe:
    """What pictures share that are drawn in one batch: all but the prompt and the seed."""
    return recipe.model_copy(update={"prompt": "", "seed": 0})


def removed(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """Each doubt about words to be removed, once."""
    return tuple(dict.fromkeys(doubt for one in recipes for doubt in one.how().doubts([one.prompt])))


def batch(model: Backbone, here: Column, recipes: Sequence[Recipe]) -> Iterator[tuple[int, list[Image.Image]]]:
    """(step, estimates or none) for each step, then (steps + 1, the pictures); the model is left as it was.

    recipes: alike but for prompt and seed. Raises UsageError where adapter or sampler do not allow what is asked for.
    """
    how, own = recipes[0].how(), here.drawing
    with ExitStack() as after:
        after.enter_context(torch.no_grad())
        walker = sampling.by_name(model, own.sampler)
        adapter, strength = sample.load(model, here, after, how.guidance.kind != "cfg")
        guidance = how.guidance if adapter else how.guidance.without_adapter()
        fast = guidance.kind == "cfg" and model.dtype == torch.float32
        after.enter_context(sample.acting(adapter, strength, fast))
        after.enter_context(sampling.evaluating(model))
        prompts, said = zip(*(here.told(recipe.prompt) for recipe in recipes), strict=True)
        edit = conditioner.decor(model, how.removed, how.decor_strength) if how.removed else None
        scale = 1.0 if hears(model) else own.guidance_scale
        guide = guiding.build(guidance, model, scale, said, edit, here.told(how.negative))
        listen = hearing(model, own.guidance_scale)
        cond, generators = model.embed(prompts), sampling.seeded([recipe.seed for recipe in recipes])
        x = sampling.start(model, generators)
        steps = walker(model, guide(listen(model.predict)), x, cond, own.steps, generators=generators)
        for number, step in enumerate(steps, 1):
            x = step.next
            yield number, decoded(model, step.clean) if shows(number, own.steps) else []
        yield own.steps + 1, decoded(model, x)


def shows(number: int, steps: int) -> bool:
    """Whether the estimate of a step is shown: a few times on the way, not at its end, where the picture is."""
    return number < steps and number * EARLY // steps != (number - 1) * EARLY // steps


def decoded(model: Backbone, latents: Tensor) -> list[Image.Image]:
    """The pictures of latents `[B, C, h, w]`."""
    return [pictures.image(one) for one in model.decode(latents).div(2).add(0.5).clamp(0, 1)]
