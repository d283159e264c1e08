"""The embedded base in few steps: an adapter, distilled on scenes by the studio's own trainer `lcm`, and its quality.

First every step of the guided teacher by itself (PCM with as many phases as timesteps), at noised scenes; then the same
where the student's own samplers go by, of which noised scenes are no good picture: there four fifths of what guidance
says were still unknown. Consistency over longer jumps only took away from that (assets/benchmarks/reward.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from studio.pipelines import attention, backbone, draws, sampling
from studio.pipelines.adapters import files, lora
from studio.pipelines.data_order import digest
from studio.pipelines.drawing import Drawing
from studio.pipelines.protocols import Adapter, Backbone, Batch
from studio.pipelines.scorers.embedded import Judges
from studio.precision import halved
from studio.trainers import lcm
from studio.trainers.base import Loss
from studio.world import base, card, quality, scenes, sprites
from studio.world.fit import Fit

SIZE, STEPS = 8, (1, 2, 4, 8)
GUIDANCE, FEWER = 4.0, 3.0  # the embedded model's own, and what is best in few steps: the adapter has that inside
STEP = {"jump_to": "edge", "phases": 50}
OWN = {**STEP, "own_steps": 8, "w_min": FEWER - 1, "w_max": FEWER - 1}
LESSONS: dict[str, tuple[float, float, dict[str, Any]]] = {  # share of the samples, learning rate, settings
    "guidance": (0.6, 1e-3, {**STEP, "w_min": GUIDANCE - 1, "w_max": GUIDANCE - 1}),
    "own": (0.4, 1e-3, OWN),
}
MORE = {"longer": (1.0, 3e-5, OWN)}  # of an adapter that has had them
DRAWN = Drawing("tcd", 4, 1.0)  # what its file says
NEW = 100_000  # first batch of it: none that was seen before


@dataclass
class Scenes:
    """The `Stream` over captioned scenes: batch n depends on n alone, and every caption is worded anew."""

    draw: scenes.Draw
    latents: Tensor
    device: torch.device
    position: int = 0
    halves: tuple[list[int], list[int]] = field(init=False)

    def __post_init__(self) -> None:
        pairs = [i for i in range(len(self.latents)) if len(self.draw(base.FIRST_SEED + i).objects) == 2]
        self.halves = pairs, sorted(set(range(len(self.latents))) - set(pairs))

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.position += 1
            yield self.at(self.position - 1)

    def at(self, number: int) -> Batch:
        """Three single objects to each pair."""
        rng, (pairs, single) = Random(digest("scenes", number)), self.halves
        rows = [rng.choice(single if row % 4 or not pairs else pairs) for row in range(SIZE)]
        return Batch(
            latents=self.latents[rows].float().to(self.device),
            prompts=[scenes.Writer(self.draw(base.FIRST_SEED + row), rng).caption() for row in rows],
            prior=torch.zeros(SIZE, dtype=torch.bool, device=self.device),
            weights=torch.ones(SIZE, device=self.device),
            masks=None,
            ids=[f"scene {row}" for row in rows],
            generator=draws.generator(digest("noise", number), draws.ALONE),
        )


class Learning(nn.Module):
    """An adapter's parameters as a module, which `Fit` can train."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        for name, parameter in adapter.named_parameters().items():
            self.register_parameter(name.replace(".", "/"), parameter)


def train(
    vae: AutoencoderKL, work: Path, tier: str, target: Path, samples: int, device: torch.device, warm: bool = False
) -> Path:
    """Train (or go on training) the adapter of the model in `target` on `samples` noised scenes; its file.

    warm: the adapter that is there learns for longer.
    """
    draw = scenes.Draw(sprites.load(work, tier))
    latents = base.bank(vae.to(device), draw, work / f"sprites-{tier}", work / "base", 24_000)
    model = backbone.load(str(target), device)
    attention.install(model.net, "auto")
    model.net.to(memory_format=torch.channels_last)
    torch.manual_seed(13)
    there = target / "lcm" / files.NAME
    adapter = files.load(model, there) if warm else lora.Config(rank=32, targets="all").build(model)
    stream, past = Scenes(draw, latents, device), NEW if warm else 0
    for name, (share, lr, settings) in (MORE if warm else LESSONS).items():
        steps = max(1, int(samples * share) // SIZE)
        fit = Fit({name: Learning(adapter)}, work / f"fewstep-{name}", steps, lr=lr, warmup=20, ema=0.99)
        stream.position = past + fit.step
        config = lcm.Config(**settings)
        lessons = lcm.losses(config, model, adapter, stream, {})

        def loss(step: int, lessons: Iterator[Loss] = lessons) -> Tensor:
            with halved(device):
                return next(lessons).value

        fit.run(loss)
        fit.use_average()
        past += steps
    return save(model, adapter, target / "lcm")


def save(model: Backbone, adapter: Adapter, folder: Path) -> Path:
    """The adapter's file in half precision, and taken out of the model."""
    folder.mkdir(exist_ok=True)
    for parameter in adapter.parameters():
        parameter.data = parameter.data.half()
    about = {**DRAWN.header, "base_model": "embedded", "base_licence": "apache-2.0"}
    path = files.save(model, adapter, folder / files.NAME, about)
    adapter.remove()
    return path


def measure(target: Path, judges: Judges, draw: scenes.Draw, count: int = 500) -> dict[str, float]:
    """Agreement with `count` held-out captions by attribute, as "4 steps: colour", of the file in `target`.

    Beside it the model itself in as few, with guidance: twice the network's calls.
    """
    model = backbone.load(str(target))
    attention.install(model.net, "auto")
    found = quality.held_out(draw, count)
    numbers: dict[str, float] = {f"{card.STATED}: {name}": number for name, number in quality.stated(found).items()}
    numbers |= judged(model, judges, found, "4 steps without it", steps=4, guidance_scale=GUIDANCE)
    adapter = files.load(model, target / "lcm" / files.NAME)
    with adapter.merged():
        for steps in STEPS:
            how = {"steps": steps, "guidance_scale": DRAWN.guidance_scale, "sampler": DRAWN.sampler}
            numbers |= judged(model, judges, found, f"{steps} step{'s' * (steps > 1)}", **how)
    return numbers


def judged(
    model: Backbone, judges: Judges, found: list[tuple[scenes.Scene, str]], name: str, **how: Any
) -> dict[str, float]:
    """`quality.agreement` of pictures of these captions, each with the name before it."""
    drawn = sampling.sample(model, [caption for _, caption in found], list(range(len(found))), batch=50, **how)
    pictures = torch.stack([picture.float().cpu() for picture in drawn]) * 2 - 1
    read = [row for part in pictures.split(100) for row in judges.read(part)]
    return {f"{name}: {attribute}": share for attribute, share in quality.agreement(found, read).items()}
