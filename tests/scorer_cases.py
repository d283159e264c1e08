"""The scorers that the contract of `tests/pipelines/test_scorers.py` is tried on, each with tiny weights of its own.

To join: one line in CASES, the file's name in `pipelines/scorers` -> a `Case` whose `config(folder)` returns the
settings with which `build` works offline; weights, if it has any, are random ones of the true architecture, written
into `folder`. `encoder` names the setting that says where its weights are ("" for a scorer without weights), so that
the contract can take them away. `count`: how many pictures it needs to say something; `per picture` laws are left out
for scorers whose `about.per` is another. `words`: prompts that it has a number for. `skip`: names of laws that do not
hold, each with its reason in a comment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio import registry
from studio.pipelines.protocols import Scorer
from tests import encoders, reward_models, seeing_models, set_models

CPU = torch.device("cpu")
WORDS = ("a cat", "the red dog on a cat", "dog of the cat", "a red dog")
QUOTING = (
    'a sign that says "cat"',
    'the words "a red dog" on a wall',
    "a hat with “dog” on it",
    'a cake, "a" and "cat"',
)


@dataclass(frozen=True)
class Case:
    """One file of `pipelines/scorers`, as the contract builds it."""

    config: Callable[[Path], dict[str, Any]]
    encoder: str = "encoder"
    count: int = 4
    pixels: int = 32
    words: tuple[str, ...] = WORDS
    skip: frozenset[str] = frozenset()

    def pictures(self) -> Tensor:
        """`[count, 3, pixels, pixels]` in 0..1, smooth enough to differ in more than noise."""
        return pictures(self.count, self.pixels)

    def prompts(self) -> list[str]:
        """One for each picture; some are alike."""
        return [self.words[i % len(self.words)] for i in range(self.count)]

    def references(self) -> list[Tensor]:
        """Three of different sizes, each with a mask as fourth channel."""
        sides = (self.pixels, self.pixels + 8, self.pixels + 3)
        return [masked(pictures(1, side, seed=9 + side)[0]) for side in sides]


def pictures(count: int, pixels: int, seed: int = 0) -> Tensor:
    """`[count, 3, pixels, pixels]` in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    fine = torch.rand(count, 3, pixels, pixels, generator=generator)
    return 0.7 * torch.nn.functional.interpolate(coarse, (pixels, pixels), mode="bilinear") + 0.3 * fine


def masked(picture: Tensor) -> Tensor:
    """`[4, h, w]`: the subject fills the middle."""
    mask = torch.zeros_like(picture[:1])
    side = picture.shape[-1]
    mask[:, side // 4 : -(side // 4), side // 4 : -(side // 4)] = 1
    return torch.cat([picture, mask])


def local(make: Callable[[Path], Path], folder: Path) -> dict[str, Any]:
    """The settings of a scorer whose `encoder` is the folder that `make` fills, once."""
    target = folder / make.__name__
    return {"encoder": str(target if target.is_dir() else make(target))}


CASES: dict[str, Case] = {
    "clip_text": Case(partial(local, encoders.tiny_clip)),
    "clip_image": Case(partial(local, encoders.tiny_clip)),
    "embedded": Case(lambda folder: {}, pixels=64),
    "dino": Case(partial(local, encoders.tiny_dinov2)),
    "siglip": Case(partial(local, encoders.tiny_siglip)),
    "aesthetic": Case(reward_models.aesthetic),
    "pickscore": Case(partial(local, encoders.tiny_clip)),
    "hps": Case(partial(local, reward_models.tiny_hps)),
    "image_reward": Case(partial(local, reward_models.tiny_image_reward)),
    "blip": Case(partial(local, reward_models.tiny_blip)),
    "blip2": Case(partial(local, reward_models.tiny_blip2)),
    "f_clipscore": Case(partial(local, reward_models.tiny_long_clip)),
    "lpips": Case(set_models.alexnet, encoder="weights", count=12),
    "vendi": Case(partial(local, encoders.tiny_dinov2), count=12),
    "frechet": Case(set_models.frechet, count=12),
    "jpeg": Case(lambda folder: {}, encoder=""),
    "colourfulness": Case(lambda folder: {}, encoder=""),
    "diversity": Case(partial(local, encoders.tiny_dinov2), count=12),
    "embedded_rewards": Case(lambda folder: {"wish": "colour=teal"}, pixels=64),
    "detector": Case(lambda folder: {"label": "dog", **local(seeing_models.tiny_yolos, folder)}),
    "ocr": Case(partial(local, seeing_models.tiny_trocr), words=QUOTING),
}


def built(name: str, folder: Path, **settings: Any) -> list[Scorer]:
    """The scorers of a case, on the CPU; `settings` replace those of the case."""
    module = registry.load("scorers", name)
    found: list[Scorer] = module.build(module.Config(**{**CASES[name].config(folder), **settings}), CPU, torch.float32)
    return found
