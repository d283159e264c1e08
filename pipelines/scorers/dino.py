"""DINO, DINOv2 or DINOv3: similarity to the references of the subject, whole pictures and the subject alone.

dino is the mean cosine of class tokens over all references. dino-subject compares patches, under the user's masks only:
for every patch of a reference that lies under its mask the most similar patch of the picture, averaged over patches,
then over references. A background that the references share does not raise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders.base import given
from studio.pipelines.encoders.dino import Dino, dino
from studio.pipelines.encoders.files import REVISION
from studio.pipelines.errors import DataError
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers.base import ImageMatch
from studio.pipelines.settings import Part

COSINE = (-1.0, 1.0)
NUMBERS = ("dino", "dino-subject")


class Config(Part):
    """Which DINO. Published DINO figures (DreamBooth, Custom Diffusion) are facebook/dino-vits16's."""

    encoder: Annotated[
        str, Field(description="DINO, DINOv2 or DINOv3 in transformers' layout: a folder or a hub id")
    ] = "facebook/dinov2-base"
    revision: Annotated[str, Field(description=REVISION)] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """dino and dino-subject. No weights are read before the first call."""
    encoder = dino(config.encoder, config.revision, device, dtype)
    group = f"dino: mean cosine, {encoder.id}"
    whole = About("dino", encoder.id, encoder.preprocessing, group, needs=("references",), bounds=COSINE)
    return [ImageMatch(whole, encoder), SubjectPatches(encoder)]


class SubjectPatches:
    """Mean over the references' masked patches of the cosine with the picture's most similar patch."""

    differentiable = True

    def __init__(self, encoder: Dino) -> None:
        self.encoder = encoder
        group = f"dino-subject: masked patches, {encoder.id}"
        words = f"{encoder.preprocessing}; masks as their pictures"
        self.about = About("dino-subject", encoder.id, words, group, needs=("references", "masks"), bounds=COSINE)

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` for pictures `[B, 3, H, W]` and references `[4, h, w]` in 0..1; the fourth channel is the mask.

        Raises DataError for a reference without a mask, or whose mask shows nothing of the subject.
        """
        subjects = self.subjects(given(references, self.about.name))
        pictures, _ = self.encoder.patch_features(images)
        cosines = [(subject @ pictures.transpose(1, 2)).amax(-1).mean(-1) for subject in subjects]
        return torch.stack(cosines).mean(0)

    def subjects(self, references: list[Tensor]) -> list[Tensor]:
        """The features `[n, D]` of the patches under each reference's mask."""
        for number, reference in enumerate(references, 1):
            if len(reference) < 4:
                raise DataError(f"reference picture {number} has no mask, which {self.about.name} needs; give it one")
        patches, grid = self.encoder.patch_features(references)
        masks = self.encoder.loaded.framing.masks([reference[3:4] for reference in references])
        share = F.adaptive_avg_pool2d(masks, grid).flatten(1).to(patches.device)
        return [row[under(part, number)] for number, (row, part) in enumerate(zip(patches, share, strict=True), 1)]


def under(share: Tensor, number: int) -> Tensor:
    """Which patches `[N]` are the subject's: more than half under the mask, or else the one that is most under it."""
    if share.max() <= 0:
        raise DataError(f"the mask of reference picture {number} is empty where the encoder looks; correct it")
    return share > 0.5 if (share > 0.5).any() else share == share.max()
