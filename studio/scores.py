"""What a run on an embedded subject reached beside its base model, by the embedded judges."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio import subjects
from studio.pipelines import sampling
from studio.pipelines.drawing import Drawing
from studio.pipelines.protocols import Backbone

STEPS, GUIDANCE, FIRST_SEED = 20, 4.0, 1000
USUAL = Drawing("auto", STEPS, GUIDANCE)
Scores = dict[str, dict[str, Any]]
Marks = dict[str, list[float]]


def draw(
    model: Backbone, prompts: list[str], seeds: list[int], base: bool, drawing: Drawing = USUAL
) -> Iterator[Tensor]:
    """Pictures `[3, H, W]` in 0..1 for prompts x seeds, prompt by prompt, by the adapter or by the base model.

    drawing: the adapter's, where it draws in few steps.
    """
    how = drawing if drawing.few_step and not base else USUAL
    off = model.adapter.off() if base and model.adapter is not None else nullcontext()
    pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), off:
        yield from sampling.sample(model, [p for p, _ in pairs], [s for _, s in pairs], batch=32, **vars(how))


@dataclass
class Comparison:
    """A subject's adapter beside its base model: marks per prompt of `subjects.prompts()` for `seeds` pictures each.

    The base model is asked for its class alone: it does not know the trigger. drawing: the run's.
    """

    model: Backbone
    place: Path
    trigger: str
    word: str
    seeds: int
    drawing: Drawing = USUAL
    rows: dict[bool, list[Marks]] = field(default_factory=lambda: {True: [], False: []})

    def run(self) -> Iterator[tuple[int, int]]:
        """Draw and judge everything, yielding (done, total)."""
        for base in (True, False):
            for row in self.measure(base):
                self.rows[base].append(row)
                yield sum(map(len, self.rows.values())), 2 * len(subjects.prompts())

    def measure(self, base: bool) -> Iterator[Marks]:
        """Marks per prompt of one side."""
        from studio.pipelines.scorers import embedded

        judges = embedded.load()
        subject = self.word if base else f"{self.trigger} {self.word}"
        prompts = [prompt.format(subject=subject) for prompt in subjects.prompts()]
        made = draw(self.model, prompts, list(range(FIRST_SEED, FIRST_SEED + self.seeds)), base, self.drawing)
        for prompt in subjects.prompts():
            pictures = torch.stack([next(made).cpu() for _ in range(self.seeds)])
            yield subjects.marks(judges, pictures, prompt, self.place)

    def table(self) -> Scores:
        """The finished comparison in the form of `scores.json`."""
        return table(self.rows[False], self.rows[True])


def summary(rows: list[Marks]) -> dict[str, tuple[float, float, int]]:
    """Mean, standard error and number of pictures of every score."""
    found = {}
    for name in rows[0]:
        values = torch.tensor([value for row in rows for value in row[name]])
        found[name] = (float(values.mean()), float(values.std() / math.sqrt(len(values))), len(values))
    return found


def table(adapter: list[Marks], base: list[Marks]) -> Scores:
    """`scores.json`: value with a 95 % interval, number of pictures, encoder, and the base model's value."""
    reference = summary(base)
    return {
        name: {
            "value": round(mean, 4),
            "low": round(mean - 1.96 * error, 4),
            "high": round(mean + 1.96 * error, 4),
            "n": count,
            "encoder": "embedded judges",
            "base": round(reference[name][0], 4),
        }
        for name, (mean, error, count) in summary(adapter).items()
    }


def write(scores: Scores, file: Path) -> None:
    """Write them as JSON."""
    file.write_text(json.dumps(scores, indent=1) + "\n")
