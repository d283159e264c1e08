"""Pictures of a gallery under a guidance that compares the adapter with its base model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from studio import guiding
from studio.evaluation.gallery import Gallery, useful
from studio.evaluation.sets import Wanted
from studio.pipelines.guidance_settings import Guiding


@dataclass
class Guided(Gallery):
    """A gallery with a guidance of its own. more: what else decides its pictures, such as an update that was added."""

    guiding: Guiding = Guiding()
    more: list[str] = field(default_factory=list)

    def what_decides(self) -> list[object]:
        """The same as a gallery's, and these."""
        return [*super().what_decides(), self.guiding.said(), *self.more]

    def draw(self, rest: list[Wanted]) -> Iterator[Tensor]:
        """The pictures, in order; the base model is told the plain prompts."""
        if self.guiding.plain:
            yield from super().draw(rest)
            return
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            yield from guiding.draw(
                self.model, [one.prompt for one in rest], [one.seed for one in rest], steps=self.how.steps,
                guidance_scale=self.how.guidance_scale, how=self.guiding, references=[one.plain for one in rest],
                batch=self.how.batch or useful(self.model), sampler=self.how.sampler,
            )  # fmt: skip
