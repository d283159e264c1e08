"""F-CLIPScore: which words of the prompt the picture contradicts, and how much (CLIP4DM, arXiv:2412.18404).

The sum of the words' shares below a threshold times 1 - max(cosine, 0): 0 where nothing is missing, else negative and
tiny (1e-4). A word's share is the mean of its tokens', after the prefix "A photo depicts ", as in the release; `words`
gives them for every picture. The threshold belongs to the encoder: another encoder needs its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders.attribution import PREFIX, Words, attributed
from studio.pipelines.encoders.clip import Clip, clip
from studio.pipelines.encoders.files import REVISION
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers.base import asked
from studio.pipelines.settings import Part

NUMBERS = ("f-clipscore",)


class Config(Part):
    """Which CLIP, and from where on a word counts as missing for it."""

    encoder: Annotated[str, Field(description="CLIP in transformers' layout: a folder or a hub id")] = (
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    )
    revision: Annotated[str, Field(description=REVISION)] = ""
    threshold: Annotated[
        float, Field(le=0, description="A word with a share below this is missing; the release's, for its ViT-H/14")
    ] = -5e-5


class FClipScore:
    """Never above 0. NaN pictures are NaN; raises DataError and ModelError."""

    differentiable = False  # it is made of gradients itself

    def __init__(self, encoder: Clip, threshold: float) -> None:
        self.encoder, self.threshold = encoder, threshold
        group = f"f-clipscore: words below {threshold:g}, {encoder.id}"
        self.about = About(
            "f-clipscore", encoder.id, encoder.preprocessing, group, needs=("prompts",), bounds=(-math.inf, 0.0)
        )

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` in 0..1 and B prompts."""
        cosines, words = attributed(self.encoder, list(images), asked(prompts, images, self.about.name))
        against = torch.tensor([self.against(row) for row in words], device=cosines.device)
        return against * (1 - cosines.clamp(0, 1))

    def words(self, images: Tensor, prompts: Sequence[str]) -> list[Words]:
        """Per picture its prompt's words and their shares; missing are those below `threshold`, NaN those not read."""
        return attributed(self.encoder, list(images), asked(prompts, images, self.about.name))[1]

    def against(self, words: Words) -> float:
        """The sum of the shares of the missing words, at most 0."""
        return math.fsum(share for _, share in words if share < self.threshold)

    def cut(self, prompts: Sequence[str]) -> list[str]:
        """One sentence for each prompt that is longer than the encoder reads."""
        return self.encoder.cut([PREFIX + prompt for prompt in prompts])


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """f-clipscore. No weights are read before the first call."""
    return [FClipScore(clip(config.encoder, config.revision, device, dtype), config.threshold)]
