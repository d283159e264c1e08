"""How `studio sample` draws, and what can be refused before anything is loaded. Never imports torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.pipelines import drawing
from studio.pipelines.confine import permitted
from studio.pipelines.drawing import Drawing
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import Guiding

ADAPTER = "adapter.safetensors"


@dataclass(frozen=True)
class How:
    """How the pictures are drawn.

    sampler "", steps and guidance_scale 0: what an adapter's file is made for, else the usual. strength: one for all
    columns, or one for each source, which then are in one model. decor: words whose share in the prompts is removed,
    texts parted by commas.
    """

    sampler: str = ""
    steps: int = 0
    guidance_scale: float = 0.0
    strength: float | Sequence[float] = 1.0
    guidance: Guiding = Guiding()
    decor: str = ""
    decor_strength: float = 1.0

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
        return said | ({"decor": self.decor, "decor_strength": self.decor_strength} if self.decor else {})

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


def check(seed: int, n: int, out: Path) -> None:
    """UsageError for what would fail only after everything was drawn, or lies where it may not."""
    permitted(out, "--out")
    if seed + n >= 2**63:
        raise UsageError(f"--seed {seed}: should be less than 2^63")
    if out.suffix.lower() != ".png" or out.is_dir():
        raise UsageError(f"--out {out}: should be a file that ends in .png")
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not os.access(place, os.W_OK) or not place.is_dir():
        raise UsageError(f"--out {out}: {place} cannot be written to")


def file_of(name: str, runs: Path) -> Path | None:
    """The adapter file that a source names: itself, a run's, or the one that comes with the studio; None for `base`.

    Raises UsageError for a name that is none of these.
    """
    if name == "base":
        return None
    path = drawing.place(name)
    if path.is_file():
        return path
    if name == drawing.EMBEDDED:
        raise UsageError(f"{name}: {path} is not there; install the studio again")
    from studio.store import Store

    run = Store(runs).open(name)
    if not (run.folder / ADAPTER).is_file():
        raise UsageError(f"the run '{run.name}' has no {ADAPTER} yet: `studio train` of its run.toml goes on with it")
    return run.folder / ADAPTER
