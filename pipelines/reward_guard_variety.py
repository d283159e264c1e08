"""How different pictures are: of one prompt, of different prompts, and all of them as a number of different ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.pipelines.encoders import clip, dino, files
from studio.pipelines.encoders.base import Encoder
from studio.pipelines.encoders.embedded import embedded
from studio.pipelines.errors import ModelError
from studio.pipelines.scorers._sets import IDS
from studio.pipelines.scorers.vendi import vendi

SIDE = 16  # pixels a side of the thumbnails that are compared where there is no encoder


@dataclass(frozen=True)
class Variety:
    """features: `[N, D]` of pictures `[N, 3, H, W]` in 0..1; name: whose; unit: they have length 1."""

    features: Callable[[Tensor], Tensor]
    name: str
    unit: bool = True

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> dict[str, float]:
        """diversity: mean over prompts of the mean distance of their pictures; diversity/across: mean distance of
        pictures of different prompts; vendi: of all pictures, 1 to N. Half the squared distance, which is 1 - cosine.

        Pictures that hold what is no number are left out, and numbers for which there are too few pictures.
        """
        features = self.features(pictures).double().cpu()
        rows = features.isfinite().all(1).nonzero().flatten()
        known, names = features[rows], [prompts[row] for row in rows.tolist()]
        gaps = torch.cdist(known, known, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
        order = list(dict.fromkeys(names))
        which = torch.tensor([order.index(name) for name in names])
        same = (which[:, None] == which).triu(1)
        own = [gaps[same & (which == number)].mean() for number in range(len(order)) if (which == number).sum() > 1]
        other = gaps[which[:, None] != which]
        found = {"diversity": float(torch.stack(own).mean())} if own else {}
        found |= {"diversity/across": float(other.mean())} if len(other) else {}
        return found | ({"vendi": vendi(known)} if self.unit and len(known) > 1 else {})


def variety(own_world: bool, device: torch.device) -> Variety:
    """By the best encoder that is on this machine. own_world: the pictures are of the studio's own small world."""
    if own_world:
        try:
            return by(embedded(device))
        except ModelError:  # a package without its judges
            return THUMBNAILS
    for kind, make in (("dino", dino.dino), ("clip", clip.clip)):
        source, revision = IDS[kind]
        if cached(source, revision):
            return by(make(source, revision, device, torch.float32))
    return THUMBNAILS


def by(encoder: Encoder) -> Variety:
    """By an encoder's features."""
    return Variety(lambda pictures: encoder.image_features(list(pictures)), encoder.id)


def cached(source: str, revision: str = "", patterns: Sequence[str] = files.WANTED) -> bool:
    """Whether an encoder of the hub is on this machine: nothing is downloaded to watch a run."""
    found = files.fetched(source, files.pinned(source, revision), list(patterns), True)
    return not isinstance(found, str) and files.has_weights(found)


def thumbnails(pictures: Tensor) -> Tensor:
    """`[N, 768]` of pictures `[N, 3, H, W]`: small copies, such that the squared distance is the mean over values."""
    small = F.interpolate(pictures.float(), (SIDE, SIDE), mode="bilinear", antialias=True).flatten(1)
    return small / small.shape[1] ** 0.5


THUMBNAILS = Variety(thumbnails, f"thumbnails of {SIDE} x {SIDE} pixels", unit=False)
