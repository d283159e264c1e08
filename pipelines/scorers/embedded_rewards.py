"""The embedded classifier as a reward with a gradient: does it read what the prompt states, or one wished answer.

embedded-stated is the mean over what a prompt states (object, colour, style, ...) of the probability that the attribute
classifier gives to it, NaN where it states nothing; embedded-wish the probability of `wish` whatever the prompt says,
there only where a wish is given. form = log: their logarithms, whose gradient does not vanish where the probability
does. Never meaningful for photographs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.assets import assets_folder
from studio.pipelines.encoders.base import batches, rows
from studio.pipelines.encoders.judges import Traits, absent, judge
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.rewards_terms import nearest
from studio.pipelines.scorers._stated import Reader
from studio.pipelines.scorers.base import asked
from studio.pipelines.settings import Part

NUMBERS = ("embedded-stated", "embedded-wish")
ASKED = {"embedded-wish": ("wish", "colour=teal")}
Answers = dict[str, list[str]]
Wanted = dict[str, str]  # an answer for each attribute that counts


class Config(Part):
    """Which judges, what is wished for, and how it is counted."""

    encoder: Annotated[str, Field(description="Folder with judges; empty: those that come with the studio")] = ""
    wish: Annotated[str, Field(description="attribute=answer for embedded-wish, e.g. colour=teal; empty: none")] = ""
    form: Annotated[
        Literal["probability", "log"], Field(description="The probability, 0..1, or its natural logarithm")
    ] = "probability"


class Answered:
    """Mean over wanted answers of their probability or its logarithm; NaN where nothing is wanted. Differentiable."""

    differentiable = True

    def __init__(self, about: About, traits: Traits, wanted: Callable[[str], Wanted], log: bool) -> None:
        self.about, self.traits, self.wanted, self.log = about, traits, wanted, log

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` in 0..1 and, where the prompts count, B prompts."""
        needs = "prompts" in self.about.needs
        texts = asked(prompts, images, self.about.name) if needs else [""] * len(images)
        wanted = [self.wanted(text) for text in texts]

        def means(pictures: list[Tensor]) -> Tensor:
            """Each picture's."""
            found = self.seen(pictures)
            answers = self.traits.loaded.model.attributes.answers
            parts = [
                [found[name][row, answers[name].index(answer)] for name, answer in want.items()]
                for row, want in enumerate(wanted)
            ]
            nothing = next(iter(found.values())).new_full((), math.nan)
            return torch.stack([torch.stack(row).mean() if row else nothing for row in parts])

        return rows(list(images), means)

    def seen(self, pictures: list[Tensor]) -> dict[str, Tensor]:
        """Per attribute `[B, answers]`: probabilities or their logarithms."""
        loaded, device = self.traits.loaded, self.traits.device
        parts = [
            loaded.model.attributes(loaded.framing([picture.to(device) for picture in chunk]))
            for chunk in batches(pictures)
        ]
        return {name: self.form(torch.cat([part[name] for part in parts]).float()) for name in parts[0]}

    def form(self, logits: Tensor) -> Tensor:
        """`[B, answers]` of logits."""
        return logits.log_softmax(-1) if self.log else logits.softmax(-1)


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """embedded-stated, and embedded-wish where there is one. Raises ModelError, and UsageError for an unknown wish."""
    folder = Path(config.encoder).expanduser() if config.encoder else assets_folder() / "judges"
    known, log = answers(folder), config.form == "log"
    traits, bounds = judge(Traits, folder, device), (-math.inf, 0.0) if log else (0.0, 1.0)
    number = "log-probability" if log else "probability"

    def about(name: str, what: str, needs: tuple[Literal["prompts"], ...] = ()) -> About:
        group = f"{name}: {number} of {what}, {traits.id}"
        return About(name, traits.id, traits.preprocessing, group, needs=needs, bounds=bounds)

    stated = Answered(about("embedded-stated", "what is stated", ("prompts",)), traits, Reader(known), log)
    if not config.wish:
        return [stated]
    want = wished(config.wish, known)
    return [stated, Answered(about("embedded-wish", config.wish), traits, lambda prompt: want, log)]


def answers(folder: Path) -> Answers:
    """What the classifier in a folder may answer. Raises ModelError when there are no judges."""
    try:
        found: Answers = json.loads((folder / "config.json").read_text("utf-8"))["answers"]
    except (OSError, ValueError, KeyError, TypeError):
        raise absent(folder) from None
    return found


def wished(wish: str, known: Answers) -> Wanted:
    """`colour=teal` in parts. Raises UsageError for what the classifier does not know."""
    name, _, answer = (part.strip() for part in wish.partition("="))
    if name not in known:
        raise UsageError(
            f"wish '{wish}': write attribute=answer; the judges know {', '.join(known)}{nearest(name, known)}"
        )
    if answer not in known[name]:
        there = f"(there are: {', '.join(known[name])})"
        raise UsageError(f"wish '{wish}': the judges know no {name} '{answer}' {there}{nearest(answer, known[name])}")
    return {name: answer}
