"""Scorers whose encoder looks at picture and prompt together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from studio.pipelines.encoders.matching import Matcher
from studio.pipelines.protocols import About
from studio.pipelines.scorers.base import asked


class PairMatch:
    """One of an encoder's numbers for a pair. NaN pictures are NaN; raises DataError and ModelError."""

    differentiable = True

    def __init__(self, about: About, encoder: Matcher, column: int = 0) -> None:
        self.about, self.encoder, self.column = about, encoder, column

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` in 0..1 and B prompts."""
        texts = asked(prompts, images, self.about.name)
        return self.encoder.match(list(images), texts)[:, self.column]

    def cut(self, prompts: Sequence[str]) -> list[str]:
        """One sentence for each prompt that is longer than the encoder reads."""
        return self.encoder.cut(prompts)
