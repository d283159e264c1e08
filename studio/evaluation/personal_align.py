"""Where one picture lies in another: the crop, mirrored or not, that matches best by normalised cross-correlation.

Pixels find the place, so that an encoder has to look at one crop of a pair instead of at all of them. Channels are
centred: flat colour matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL, LONG = 64, 40  # pixels of the longer side: of what is kept of a picture, of what is searched at first
SIDES = tuple(0.93**step for step in range(11))  # of a crop, as shares of the largest one of its proportions: 1 to 0.48
NEARBY = (0.965, 1.0, 1.035)  # of a side that was found, to find it better
FLAT = 1e-3  # variance of a pixel that counts as none
WHOLE = (0.0, 0.0, 1.0, 1.0)  # a box: top, left, height, width as shares of its picture


class Matches(NamedTuple):
    """The best match of every picture and training picture. score: `[P, T]` correlation, -1..1; mirrored: `[P, T]`.

    pictures, training: boxes `[P, T, 4]`, one of the two the whole; training's after mirroring.
    """

    score: Tensor
    pictures: Tensor
    training: Tensor
    mirrored: Tensor


class Pairing(NamedTuple):
    """One picture and one training picture: the boxes that show the same; training's after mirroring."""

    picture: tuple[float, ...]
    training: tuple[float, ...]
    mirrored: bool


def matches(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Matches:
    """Every picture with every training picture, both `shrunk`, of any size each."""
    turned = [picture.flip(-1) for picture in theirs]
    closer = [placed(group, ours) for group in (theirs, turned)]  # the picture is a crop of the training picture
    wider = [[part.transpose(0, 1) for part in placed(ours, group)] for group in (theirs, turned)]
    score = torch.stack([found[0] for found in (*closer, *wider)])
    boxes = torch.stack([found[1] for found in (*closer, *wider)])
    best, which = score.max(0)
    box = boxes.gather(0, which[None, :, :, None].expand(1, *boxes.shape[1:]))[0]
    inside, whole = (which < 2)[:, :, None], torch.tensor(WHOLE)
    return Matches(best, torch.where(inside, whole, box), torch.where(inside, box, whole), which % 2 == 1)


def refined(ours: Tensor, theirs: Tensor, match: Matches, row: int, column: int) -> Pairing:
    """The match of one `shrunk` picture and training picture, found again at a higher resolution."""
    mirrored, closer = bool(match.mirrored[row, column]), match.pictures[row, column].tolist() == list(WHOLE)
    theirs = theirs.flip(-1) if mirrored else theirs
    field, template = (theirs, ours) if closer else (ours, theirs)
    box = (match.training if closer else match.pictures)[row, column]
    side = float(box[2]) * field.shape[-2] / template.shape[-2] / largest(field, template)
    sides = sorted({min(1.0, side * factor) for factor in NEARBY}, reverse=True)
    found = tuple(find(field[None], template[None], sides, SMALL)[1][0, 0].tolist())
    return Pairing(WHOLE, found, mirrored) if closer else Pairing(found, WHOLE, mirrored)


def placed(pictures: Sequence[Tensor], templates: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Score `[N, M]` and box `[N, M, 4]` of each of N templates in each of M pictures."""
    score, boxes = torch.full((len(templates), len(pictures)), -1.0), torch.zeros(len(templates), len(pictures), 4)
    for columns, fields in by_shape(pictures):
        for rows, batch in by_shape(templates):
            cells = torch.tensor(rows)[:, None], torch.tensor(columns)
            score[cells], boxes[cells] = find(fields, batch)
    return score, boxes


def by_shape(pictures: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Places and batch of the pictures of each shape."""
    rows: dict[torch.Size, list[int]] = {}
    for row, picture in enumerate(pictures):
        rows.setdefault(picture.shape, []).append(row)
    return ((same, torch.stack([pictures[row] for row in same])) for same in rows.values())


def find(
    pictures: Tensor, templates: Tensor, sides: Sequence[float] = SIDES, long: int = LONG
) -> tuple[Tensor, Tensor]:
    """Score `[N, M]` and box `[N, M, 4]`: where templates `[N, 3, h, w]` fit best into pictures `[M, 3, H, W]`."""
    scale = long / max(pictures.shape[-2:])
    fields = resized(pictures, *(max(2, round(side * scale)) for side in pictures.shape[-2:]))
    (height, width), (h, w) = fields.shape[-2:], templates.shape[-2:]
    score = torch.full((len(templates), len(fields)), -1.0)
    boxes = torch.tensor(WHOLE).expand(*score.shape, 4)
    for side in sides:
        most = largest(fields, templates) * side
        size = min(height, max(2, round(h * most))), min(width, max(2, round(w * most)))
        found = correlation(fields, resized(templates, *size)).transpose(0, 1)
        best, place = found.flatten(2).max(2)
        down, right = place // found.shape[-1], place % found.shape[-1]
        spans = (torch.full_like(best, size[0] / height), torch.full_like(best, size[1] / width))
        box = torch.stack([down / height, right / width, *spans], 2)
        score, boxes = torch.maximum(score, best), torch.where((best > score)[:, :, None], box, boxes)
    return score, boxes


def largest(field: Tensor, template: Tensor) -> float:
    """By how much a template grows or shrinks to just fit into a picture."""
    return min(field.shape[-2] / template.shape[-2], field.shape[-1] / template.shape[-1])


def correlation(fields: Tensor, templates: Tensor) -> Tensor:
    """`[M, N, rows, columns]`: of templates `[N, 3, h, w]` with every place of pictures `[M, 3, H, W]`."""
    count = templates[0, 0].numel()
    centred = templates - templates.mean((2, 3), keepdim=True)
    length = (centred.square().sum((1, 2, 3)) + FLAT * count).sqrt()
    high, wide = templates.shape[-2:]  # two passes of one dimension are the one of two, in a fraction of the time
    sums, squares = (
        F.avg_pool2d(F.avg_pool2d(x, (high, 1), 1), (1, wide), 1) * count for x in (fields, fields.square())
    )
    energy = (squares - sums.square() / count).sum(1, keepdim=True).clamp(min=0) + FLAT * count
    return F.conv2d(fields, centred) / length[:, None, None] / energy.sqrt()


def shrunk(picture: Tensor) -> Tensor:
    """A picture `[3, h, w]` on the CPU with its longer side at `SMALL`; values that are no numbers are black."""
    scale = SMALL / max(picture.shape[-2:])
    size = (max(2, round(side * scale)) for side in picture.shape[-2:])
    return resized(picture.detach().cpu().float().nan_to_num(0, 0, 0)[None], *size)[0]


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """`[N, 3, height, width]`, antialiased."""
    return F.interpolate(pictures, (height, width), mode="bilinear", antialias=True)


def cut(picture: Tensor, box: Sequence[float]) -> Tensor:
    """The crop `[3, h, w]` of a picture."""
    (top, left, high, wide), (height, width) = box, picture.shape[-2:]
    h, w = max(1, round(height * high)), max(1, round(width * wide))
    down, right = min(round(height * top), height - h), min(round(width * left), width - w)
    return picture[:, down : down + h, right : right + w]
