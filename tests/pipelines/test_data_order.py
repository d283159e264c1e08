"""Laws of batch order: fair, pure, one group per batch."""

from __future__ import annotations

from collections import Counter

import pytest

from studio.pipelines.data_order import Order

GROUPS = [(5,), (8,), (1,), (3, 1, 7), (1, 1, 1), (10, 4, 4, 1)]


@pytest.mark.parametrize("lengths", GROUPS)
@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_every_entry_comes_once_an_epoch(lengths, batch):
    """After E epochs each entry was drawn at least E times, and each group's surplus is under one batch."""
    order = Order(lengths, batch, seed=1)
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(1, 7):
        for position in range(order.start(epoch - 1), order.start(epoch)):
            group, entries = order(position)
            assert len(entries) == batch
            seen.update((group, entry) for entry in entries)
        for group, n in enumerate(lengths):
            counts = [seen[group, entry] for entry in range(n)]
            assert min(counts) >= epoch
            assert sum(counts) - epoch * n < batch


@pytest.mark.parametrize("lengths", GROUPS)
def test_a_batch_depends_on_seed_and_position_alone(lengths):
    straight = [Order(lengths, 3, seed=5)(p) for p in range(40)]
    order = Order(lengths, 3, seed=5)
    assert [order(p) for p in reversed(range(40))] == straight[::-1]
    assert sum(lengths) < 4 or [Order(lengths, 3, seed=6)(p) for p in range(40)] != straight


def test_epochs_differ():
    order = Order((50,), 50, seed=0)
    epochs = [order(p)[1] for p in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)


def test_far_positions_cost_nothing():
    group, entries = Order((3, 4), 2, seed=0)(10**12)
    assert group in (0, 1)
    assert len(entries) == 2
