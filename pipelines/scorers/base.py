"""What image and text similarity scorers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from studio.pipelines.encoders.base import Encoder, given
from studio.pipelines.errors import DataError
from studio.pipelines.protocols import About


def asked(prompts: Sequence[str], images: Tensor, scorer: str) -> list[str]:
    """One prompt per picture. Raises DataError when there are none, or another number of them."""
    if len(prompts) != len(images):
        raise DataError(f"{scorer} needs one prompt per picture: {len(prompts)} prompts for {len(images)} pictures")
    return list(prompts)


class TextMatch:
    """`formula` of the cosine of picture and prompt. NaN pictures are NaN; raises DataError and ModelError."""

    differentiable = True

    def __init__(self, about: About, encoder: Encoder, formula: Callable[[Tensor], Tensor]) -> None:
        self.about, self.encoder, self.formula = about, encoder, formula

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` in 0..1 and B prompts."""
        texts = self.encoder.text_features(asked(prompts, images, self.about.name))
        return self.formula((self.encoder.image_features(images) * texts).sum(-1))

    def cut(self, prompts: Sequence[str]) -> list[str]:
        """One sentence for each prompt that is longer than the encoder reads."""
        return self.encoder.cut(prompts)


class ImageMatch:
    """Mean cosine of a picture and all references. NaN pictures are NaN; raises DataError and ModelError."""

    differentiable = True

    def __init__(self, about: About, encoder: Encoder) -> None:
        self.about, self.encoder = about, encoder

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` and references `[3 or 4, h, w]` in 0..1."""
        near = self.encoder.image_features(given(references, self.about.name))
        # the mean over references of cosines is the cosine with their mean, unnormalised
        return self.encoder.image_features(images) @ near.mean(0)
