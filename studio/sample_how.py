"""How `studio sample` draws, and what can be refused before anything is loaded. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from studio.pipelines import drawing
from studio.pipelines.drawing import Drawing
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import Guiding


@dataclass(frozen=True)
class How:
    """How the pictures are drawn.

    sampler "", steps and guidance_scale 0: what an adapter's file is made for, else the usual. strength: one for all
    columns, or one for each source, which then are in one model. decor: words whose share in the prompts is removed,
    texts parted by commas. negative: what takes the empty prompt's place in the guidance.
    """

    sampler: str = ""
    steps: int = 0
    guidance_scale: float = 0.0
    strength: float | Sequence[float] = 1.0
    guidance: Guiding = Guiding()
    decor: str = ""
    decor_strength: float = 1.0
    negative: str = ""

    @property
    def strengths(self) -> tuple[float, ...]:
        """All of them."""
        return (self.strength,) if isinstance(self.strength, (int, float)) else tuple(self.strength)

    @property
    def removed(self) -> list[str]:
        """The texts whose share is removed."""
        return [text.strip() for text in self.decor.split(",") if text.strip()]

    def drawing(self, own: Drawing | None) -> Drawing:
        """Sampler, steps and guidance scale for a file that is made for `own`."""
        return drawing.wished(own, drawing.USUAL, self.sampler, self.steps, self.guidance_scale)

    def about(self) -> dict[str, object]:
        """What a picture's header says of it, beside sampler, steps and guidance scale."""
        said: dict[str, object] = {"strength": ", ".join(str(float(one)) for one in self.strengths)}
        said["guidance"] = self.guidance.said()
        said |= {"decor": self.decor, "decor_strength": self.decor_strength} if self.decor else {}
        return said | ({"negative": self.negative} if self.negative else {})

    def check(self, sources: Sequence[str]) -> None:
        """UsageError for numbers that mean nothing, and for strengths that are not the sources'."""
        if not all(math.isfinite(one) for one in (*self.strengths, self.guidance_scale)):
            raise UsageError("--guidance-scale and --strength should be finite numbers")
        if not 0 <= self.steps <= drawing.MOST:
            raise UsageError(f"--steps = {self.steps}: should be from 1 to {drawing.MOST}, or 0: the file's own")
        if self.guidance_scale and self.guidance_scale < 1:
            raise UsageError(f"--guidance-scale = {self.guidance_scale:g}: should be 1 or more, or 0: the file's own")
        if self.sampler:
            drawing.known(self.sampler)
        if not 0 <= self.decor_strength <= 1:
            raise UsageError(f"--decor-strength = {self.decor_strength}: should be from 0 to 1")
        if idle := self.guidance.idle():
            flag, kind = idle[0].replace("_", "-"), self.guidance.kind
            raise UsageError(f"--guidance.{flag} does nothing with {kind} guidance: leave it out, or change --guidance")
        if len(self.strengths) not in (1, len(sources)):
            count = len(sources)
            raise UsageError(
                f"--strength: {len(self.strengths)} numbers for {count} source{'s' * (count != 1)}; give one for all "
                "columns, or one for each, to draw with all of them in one model"
            )
        if len(self.strengths) > 1 and "base" in sources:
            raise UsageError("--strength: base has none; leave it out, or give one number for all columns")

    def doubts(self, prompts: Sequence[str]) -> Iterator[str]:
        """A line for each text to be removed that no prompt has."""
        said = [" ".join(prompt.lower().split()) for prompt in prompts]
        for text in self.removed:
            if not any(text.lower() in prompt for prompt in said):
                yield f"--decor: no prompt says {text!r}; what the prompts share with it is removed all the same"
