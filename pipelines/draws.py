"""Random draws for a batch that several processes share: all draw the whole batch's numbers, each keeps its rows.

So two processes see what one process would see with twice the batch, and one process sees what it always saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process holds: the `rank`-th of `ranks` equal runs of rows."""

    rank: int = 0
    ranks: int = 1

    def rows(self, count: int) -> slice:
        """This process's rows of a batch in which every process has `count`."""
        return slice(self.rank * count, (self.rank + 1) * count)


ALONE = Share()


class Shared(torch.Generator):
    """A CPU generator that knows which rows of a draw are this process's."""

    share = ALONE


def generator(seed: int, share: Share) -> Shared:
    """A seeded generator for this process's rows."""
    made = Shared()
    made.share = share
    made.manual_seed(seed)
    return made


def draw(make: Callable[[int], Tensor], count: int, source: torch.Generator | None) -> Tensor:
    """`make(n)` draws n rows from `source`; the `count` of them that are this process's."""
    share = getattr(source, "share", ALONE)
    return make(count * share.ranks)[share.rows(count)]
