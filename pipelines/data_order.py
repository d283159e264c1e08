"""Which samples are in batch number p: a pure function of the seed and p, so that resuming is exact."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from random import Random


def digest(*parts: object) -> int:
    """A 63-bit number that depends on every part, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@lru_cache(maxsize=256)
def permutation(n: int, *key: object) -> tuple[int, ...]:
    """0..n-1 in the order that `key` draws."""
    return tuple(Random(digest(*key)).sample(range(n), n))


class Order:
    """Endless batches of one picture size each, from groups (buckets) of the given lengths.

    Each group is one endless row of seeded permutations, cut into batches: a batch that an epoch does not
    fill is completed by the group's next epoch. Within an epoch the groups' batches come in seeded order,
    each group with as many as its length calls for, so that every entry is drawn equally often in the long
    run.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed = tuple(lengths), batch, seed

    def __call__(self, position: int) -> tuple[int, list[int]]:
        """The group of batch `position` and the entries drawn from it."""
        epoch = self.epoch(position)
        place = position - self.start(epoch)
        groups = self.groups(epoch)
        group = groups[place]
        number = self.batches(group, epoch) + groups[:place].count(group)
        return group, self.entries(group, number)

    def epoch(self, position: int) -> int:
        """The epoch that batch `position` belongs to."""
        latest = position * self.batch // sum(self.lengths) + 1
        return bisect_right(range(1, latest + 1), position, key=self.start)

    def start(self, epoch: int) -> int:
        """The number of the epoch's first batch."""
        return sum(self.batches(group, epoch) for group in range(len(self.lengths)))

    def batches(self, group: int, epoch: int) -> int:
        """How many batches of the group the epochs before `epoch` take."""
        return -(-epoch * self.lengths[group] // self.batch)

    def groups(self, epoch: int) -> tuple[int, ...]:
        """The group of each of the epoch's batches, in order."""
        counts = (self.batches(g, epoch + 1) - self.batches(g, epoch) for g in range(len(self.lengths)))
        bag = [group for group, count in enumerate(counts) for _ in range(count)]
        return tuple(bag[i] for i in permutation(len(bag), self.seed, "groups", epoch))

    def entries(self, group: int, number: int) -> list[int]:
        """The entries of the group's batch `number`."""
        n = self.lengths[group]
        where = (divmod(i, n) for i in range(number * self.batch, (number + 1) * self.batch))
        return [permutation(n, self.seed, "entries", group, epoch)[place] for epoch, place in where]
