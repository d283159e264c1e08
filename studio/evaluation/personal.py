"""What is measured of a personal adapter beside the scorers: who is in the pictures, and how different they are.

Every function takes pictures `[3, h, w]` in 0..1 and any image encoder, and gives one value per picture in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from studio.pipelines.errors import DataError
from studio.pipelines.protocols import About

COSINE, APART = (-1.0, 1.0), (0.0, 2.0)  # bounds of a cosine, and of 1 - cosine


class Eye(Protocol):
    """An image encoder, such as those of `pipelines/encoders`."""

    @property
    def id(self) -> str: ...
    @property
    def preprocessing(self) -> str: ...
    def image_features(self, pictures: Sequence[Tensor]) -> Tensor: ...  # unit [B, D], NaN rows for NaN pictures


@dataclass(frozen=True)
class Measured:
    """One measure: what it is, its value for each picture (NaN where there is none), and what a person must read."""

    about: About
    values: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Of the values there are; NaN of none."""
        return mean(self.values)


def identity(
    eye: Eye, pictures: Sequence[Tensor], references: Sequence[Tensor], training: bool = False
) -> list[Measured]:
    """Mean and maximum cosine of each picture with the references (a fourth channel is not looked at).

    training: they are the training pictures, for want of others; the measures say so in their group, since a copy
    scores best there. Raises DataError for no references, or one with values that are no numbers.
    """
    near = reference_features(eye, references)
    cosines = eye.image_features(pictures) @ near.T
    of = "training pictures" if training else "references"
    return [
        Measured(about(name, f"{how} cosine with {of}", eye, needs=("references",), bounds=COSINE), numbers(found))
        for name, how, found in (("identity", "mean", cosines.mean(1)), ("identity-max", "largest", cosines.amax(1)))
    ]


def diversity(eye: Eye, pictures: Sequence[Tensor], prompts: Sequence[str]) -> Measured:
    """Mean of 1 - cosine of each picture with the others of its prompt; NaN where a prompt has only one.

    The mean over a prompt's pictures is the mean over its pairs.
    """
    features, groups = eye.image_features(pictures), same(prompts, pictures)
    found = torch.full((len(pictures),), torch.nan)
    good = features.isfinite().all(1)
    for group in groups:
        rows = [row for row in group if good[row]]
        if len(rows) > 1:
            found[rows] = apart(features[rows, None], features[None, rows]).sum(1).cpu() / (len(rows) - 1)
    how = "mean pairwise 1 - cosine per prompt"
    return Measured(about("diversity", how, eye, per="prompt", needs=("prompts",), bounds=APART), numbers(found))


def masked(picture: Tensor, mask: Tensor | None) -> Tensor:
    """A reference `[3, h, w]` with its mask `[1, h, w]` as fourth channel; without a mask as it is.

    Raises DataError for a mask of another size.
    """
    if mask is None:
        return picture
    if mask.shape[-2:] != picture.shape[-2:]:
        have, want = (f"{x.shape[-1]}x{x.shape[-2]}" for x in (mask, picture))
        raise DataError(f"the mask is {have} px and its picture {want} px: make the mask from the picture as it is")
    return torch.cat([picture[:3], mask.reshape(1, *mask.shape[-2:]).to(picture)])


def reference_features(eye: Eye, references: Sequence[Tensor]) -> Tensor:
    """Unit `[R, D]`. Raises DataError for none, or for one with values that are no numbers."""
    if not len(references):
        raise DataError("there are no reference pictures of the subject to compare with; name a folder with some")
    features = eye.image_features([reference[:3] for reference in references])
    bad = (~features.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise DataError(f"reference picture {bad[0] + 1} holds values that are no numbers; leave it out")
    return features


def apart(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine of unit features `[..., D]`: half their squared distance, exactly 0 for equal ones."""
    return (first - second).square().sum(-1) / 2


def same(keys: Sequence[str], pictures: Sequence[Tensor]) -> list[list[int]]:
    """Rows of each key. Raises DataError unless every picture has one."""
    if len(keys) != len(pictures):
        raise DataError(f"every picture needs its prompt: {len(pictures)} pictures, {len(keys)} prompts")
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return list(rows.values())


def about(name: str, how: str, eye: Eye, **more: object) -> About:
    """An `About` whose group is the name, the way it is computed and the encoder."""
    return About(name, eye.id, eye.preprocessing, f"{name}: {how}, {eye.id}", **more)  # type: ignore[arg-type]


def numbers(values: Tensor) -> tuple[float, ...]:
    """As `records.Score` keeps them."""
    return tuple(values.float().cpu().tolist())


def mean(values: Sequence[float]) -> float:
    """Of the values that are numbers; NaN of none."""
    good = [value for value in values if value == value]
    return sum(good) / len(good) if good else float("nan")
