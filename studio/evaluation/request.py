"""What a person asks of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from studio.evaluation import sets
from studio.evaluation.gallery import How
from studio.evaluation.panel import ALL, Options
from studio.evaluation.sets import PromptSet
from studio.evaluation.targets import Target
from studio.pipelines import assets
from studio.pipelines.drawing import Drawing, known, wished
from studio.pipelines.errors import UsageError

QUICK = 2  # prompts of a set, and seeds
STEPS, GUIDANCE = 20, 5.0  # where a model says nothing of its own


@dataclass(frozen=True)
class Request:
    """What to evaluate by. sets: names, none: all; prompts: a person's own sets; kind: live, object or style.

    references: pictures of the subject; data: those trained on; scorers: names, none: those that suit the model;
    options: by scorer; sampler "", steps, guidance_scale 0: what the file is made for, else the model's own; strengths:
    of the adapters; trigger, class_word: instead of the files' own; out: a folder for everything, the runs' own scores
    stay; quick: a rough look; pick: first make the runs' recommended checkpoints their adapters.
    """

    sets: Sequence[str] = ()
    seeds: int = 4
    prompts: Path | None = None
    references: Path | None = None
    data: Path | None = None
    scorers: Sequence[str] = ()
    options: Options = field(default_factory=dict)
    strengths: Sequence[float] = (1.0,)
    sampler: str = ""
    steps: int = 0
    guidance_scale: float = 0.0
    batch: int = 0
    kind: str = ""
    model: str = ""
    trigger: str = ""
    class_word: str = ""
    out: Path | None = None
    runs: Path = Path("runs")
    quick: bool = False
    pick: bool = False

    def check(self) -> None:
        """Raises UsageError for numbers that mean nothing."""
        for name, least in (("seeds", 1), ("steps", 0), ("batch", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name} = {getattr(self, name)}: should be greater than or equal to {least}")
        if not all(math.isfinite(one) for one in (*self.strengths, self.guidance_scale)):
            raise UsageError("--strength and --guidance-scale should be finite numbers")
        if self.guidance_scale and self.guidance_scale < 1:
            raise UsageError(f"--guidance-scale = {self.guidance_scale}: should be 1 or more")
        if self.sampler:
            known(self.sampler)
        if not self.strengths:
            raise UsageError("--strength needs a number")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {self.out}: is a file; name a folder")

    def how(self, model: str, own: Drawing | None = None) -> How:
        """How the pictures of a model are drawn. own: what the adapter's file is made for."""
        advised = assets.recommended(model).get("settings", {}).get("previews", {})
        steps, scale = advised.get("steps", STEPS), advised.get("guidance_scale", GUIDANCE)
        usual = Drawing("auto", int(steps), float(scale))
        return How.of(wished(own, usual, self.sampler, self.steps, self.guidance_scale), self.batch)

    def of_base(self, model: str, beside: Sequence[How]) -> How:
        """How the base model's are drawn: as it wants to be where all beside it are of few steps."""
        alone = all(how.drawing.few_step for how in beside)
        return replace(self, sampler="", steps=0, guidance_scale=0.0).how(model) if alone else self.how(model)

    def prompt_sets(self, target: Target) -> list[PromptSet]:
        """The sets a source is asked for."""
        word = target.source.class_word
        found = sets.shipped(target.source.model, self.kind or sets.kind_of(word))  # type: ignore[arg-type]
        found = sets.choose(sets.merged(found, sets.read(self.prompts) if self.prompts else []), self.sets)
        return sets.shortened(found, QUICK) if self.quick else found

    @property
    def numbers(self) -> list[int]:
        """The seeds."""
        return sets.seeds(min(self.seeds, QUICK) if self.quick else self.seeds)

    @property
    def explicit(self) -> bool:
        """Whether scorers were asked for by their names."""
        return bool(self.scorers) and ALL not in self.scorers
