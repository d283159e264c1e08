"""Copy risk: whether a picture is, or is cut out of, one of the pictures that the adapter was trained on.

A picture and a training picture are compared as they are, and again where they match best: the picture with the crop of
the training picture, mirrored or not, that it most looks like (it zoomed in), or its own crop with the whole training
picture (it zoomed out). `personal_align` finds the crop; the cosine of an encoder says how alike they are; the largest
one counts. Take an encoder that sees the subject more than the colours: DINOv2, or the embedded judges' traits.

How alike is too alike depends on the encoder and on the subject, and is read off the person's own pictures: different
pictures of the subject are not copies of each other, so what they reach among themselves, by the same measure, is
no sign of copying. The bound lies half way from there to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from studio.evaluation.personal import COSINE, Eye, Measured, about, numbers, reference_features
from studio.evaluation.personal_align import cut, matches, refined, shrunk
from studio.evaluation.records import Pair
from studio.pipelines.errors import DataError

TWICE = 0.999  # pictures nearer than this are one picture that is there twice
USUAL = 0.95  # the bound where there is only one picture
HOW = "crop-tolerant cosine with the nearest training picture"


@dataclass(frozen=True)
class Shelf:
    """The training pictures, ready to compare with. features: `[T, D]` of the whole ones.

    bound: pictures from here on are flagged; usual: how near different pictures of the subject are, NaN if unknown.
    """

    names: tuple[str, ...]
    pictures: tuple[Tensor, ...]
    features: Tensor
    bound: float = USUAL
    usual: float = float("nan")

    @property
    def note(self) -> str:
        """Where the bound comes from, in a sentence."""
        if self.usual != self.usual:
            return f"copies are flagged from a similarity of {self.bound:.3f}, a guess: one picture says no more"
        return (
            f"copies are flagged from a similarity of {self.bound:.3f}: different pictures of the subject reach "
            f"{self.usual:.3f} among themselves, and the bound lies half way from there to 1"
        )


@dataclass(frozen=True)
class Copies:
    """similarity: per picture to its nearest training picture; flagged: 1 from the bound on, else 0; pairs: all."""

    similarity: Measured
    flagged: Measured
    pairs: list[Pair]


def shelf(eye: Eye, training: Sequence[Tensor], names: Sequence[str], others: Sequence[Tensor] = ()) -> Shelf:
    """The training pictures `[3 or 4, h, w]` and the bound.

    names: as the data set names them; others: further pictures that are no copies and make the bound surer: references,
    or a base model's. Raises DataError for no training pictures, or one with values that are no numbers.
    """
    if len(names) != len(training):
        raise DataError(f"every training picture needs its name: {len(training)} pictures, {len(names)} names")
    whole = tuple(picture[:3] for picture in training)
    bare = Shelf(tuple(names), whole, reference_features(eye, whole))
    if not others and len(whole) < 2:
        return bare
    found = similarity(eye, [*whole, *(picture[:3] for picture in others)], bare, themselves=True)
    usual = found[found < TWICE].max() if (found < TWICE).any() else torch.tensor(-1.0)
    return bare if usual <= -1 else replace(bare, bound=(1 + float(usual)) / 2, usual=float(usual))


def copies(eye: Eye, pictures: Sequence[Tensor], training: Shelf, numbered: Sequence[int] | None = None) -> Copies:
    """Similarity, flag and nearest training picture of each picture; numbered: their places in the evaluation."""
    nearest, which = similarity(eye, [picture[:3] for picture in pictures], training).max(1)
    flags = torch.where(nearest.isnan(), torch.nan, (nearest >= training.bound).float())
    count = int(flags.nansum())
    notes = [training.note]
    if count:
        notes.append(f"{count} of {len(pictures)} pictures look like copies of training pictures: look at the pairs")
    places = range(len(pictures)) if numbered is None else numbered
    rows = zip(places, which.tolist(), numbers(nearest), strict=True)
    share = about("copies", f"share of pictures flagged, {HOW}", eye, better="lower", bounds=(0.0, 1.0))
    return Copies(
        Measured(about("copy-similarity", HOW, eye, better="lower", bounds=COSINE), numbers(nearest), tuple(notes)),
        Measured(share, numbers(flags), tuple(notes)),
        [Pair(place, training.names[index], value) for place, index, value in rows if value == value],
    )


@torch.no_grad()
def similarity(eye: Eye, pictures: Sequence[Tensor], training: Shelf, themselves: bool = False) -> Tensor:
    """`[P, T]` crop-tolerant cosines. themselves: the first pictures are the training pictures; -1 to themselves."""
    found = eye.image_features(pictures) @ training.features.T
    if not len(pictures):
        return found
    ours, theirs = ([shrunk(picture) for picture in group] for group in (pictures, training.pictures))
    match = matches(ours, theirs)
    mine = torch.eye(*found.shape, dtype=torch.bool) if themselves else torch.zeros(found.shape, dtype=torch.bool)
    best = [score.masked_fill(mine, -2).argmax(1).tolist() for score in (match.score, found.cpu())]
    pairs = sorted({(row, column) for columns in best for row, column in enumerate(columns)})
    pairings = [refined(ours[row], theirs[column], match, row, column) for row, column in pairs]
    first = [cut(pictures[row], pairing.picture) for (row, _), pairing in zip(pairs, pairings, strict=True)]
    second = [
        cut(turned(training.pictures[column], pairing.mirrored), pairing.training)
        for (_, column), pairing in zip(pairs, pairings, strict=True)
    ]
    cells = tuple(torch.tensor(pairs).T)
    found[cells] = torch.maximum(found[cells], (eye.image_features(first) * eye.image_features(second)).sum(1))
    return found.masked_fill(mine.to(found.device), -1)


def turned(picture: Tensor, mirrored: bool) -> Tensor:
    """A picture, or its mirror image."""
    return picture.flip(-1) if mirrored else picture
