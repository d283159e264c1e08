"""The embedded judges: how well pictures of the studio's own small world fit prompt, subject and stated attributes.

embedded-prompt is the cosine of picture and prompt; embedded-subject (image-text judge) and embedded-traits (attribute
classifier) are mean cosines with the references; embedded-attributes is the share of what the prompt states that the
classifier reads back. Never meaningful for photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.assets import assets_folder
from studio.pipelines.encoders.base import batches, rows
from studio.pipelines.encoders.judges import Attributes, Judges, Sight, Traits, judge, load, new_clip, tokens
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._stated import Reader
from studio.pipelines.scorers.base import ImageMatch, TextMatch, asked
from studio.pipelines.settings import Part

__all__ = ["Attributes", "Config", "Judges", "PromptMatch", "SubjectMatch", "build", "load", "new_clip", "tokens"]

NUMBERS = ("embedded-prompt", "embedded-subject", "embedded-traits", "embedded-attributes")


class Config(Part):
    """Which judges."""

    encoder: Annotated[str, Field(description="Folder with judges; empty: those that come with the studio")] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """embedded-prompt, embedded-subject, embedded-traits, embedded-attributes. ModelError: the judges are not there."""
    folder = Path(config.encoder).expanduser() if config.encoder else assets_folder() / "judges"
    sight, traits = judge(Sight, folder, device), judge(Traits, folder, device)
    return [PromptMatch(sight), SubjectMatch(sight), SubjectMatch(traits), StatedAttributes(sight)]


def about(name: str, sight: Sight, number: str, need: Literal["prompts", "references"]) -> About:
    """What one of the four numbers is."""
    bounds = (0.0, 1.0) if number.startswith("share") else (-1.0, 1.0)
    return About(name, sight.id, sight.preprocessing, f"{name}: {number}, {sight.id}", needs=(need,), bounds=bounds)


class PromptMatch(TextMatch):
    """How well pictures fit their prompts: cosine of the embedded image-text model."""

    def __init__(self, judges: Judges | Sight) -> None:
        sight = judges if isinstance(judges, Sight) else Sight.of(judges)
        super().__init__(about("embedded-prompt", sight, "cosine", "prompts"), sight, lambda cosine: cosine)


class SubjectMatch(ImageMatch):
    """How close pictures are to references of a subject: mean cosine to all of them."""

    def __init__(self, judges: Judges | Sight, by: str = "image") -> None:
        """by: "image" (the image-text model's view) or "attribute" (the classifier's), where judges are given."""
        if isinstance(judges, Judges):
            judges = Sight.of(judges) if by == "image" else Traits.of(judges)
        name = "embedded-traits" if isinstance(judges, Traits) else "embedded-subject"
        super().__init__(about(name, judges, "mean cosine", "references"), judges)


class StatedAttributes:
    """Which share, 0..1, of the attributes that a prompt states the classifier sees; NaN where it states none."""

    differentiable = False

    def __init__(self, sight: Sight) -> None:
        self.sight = sight
        self.about = about("embedded-attributes", sight, "share of stated attributes", "prompts")

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` in 0..1 and B prompts."""
        wanted = asked(prompts, images, self.about.name)
        judges: Judges = self.sight.loaded.model
        stated = Reader(judges.attributes.answers)

        def shares(pictures: list[Tensor]) -> Tensor:
            ready = (self.sight.loaded.framing(chunk) for chunk in batches(pictures))
            seen = [row for x in ready for row in judges.attributes.read(x.to(self.sight.device))]
            return torch.tensor([share(stated(prompt), row) for prompt, row in zip(wanted, seen, strict=True)])

        return rows(list(images.detach()), shares)


def share(stated: dict[str, str], seen: dict[str, str]) -> float:
    """Of the stated attributes, those that are seen; NaN of none."""
    return sum(seen[name] == value for name, value in stated.items()) / len(stated) if stated else float("nan")
