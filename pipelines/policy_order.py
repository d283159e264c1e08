"""Which (picture, step) pairs a roll-out's micro-batches hold, and what processes tell each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Micro:
    """A micro-batch. items: numbers of what it learns from; scale: of the sum of its rows' losses.

    The mean over an optimizer step's losses of scale times the sum is the mean over all that the step learns from.
    """

    items: Tensor
    scale: float


def deal(count: int, updates: int, parts: int, losses: int, generator: torch.Generator) -> Iterator[list[Micro]]:
    """0..count-1 without replacement: for each of `updates` steps, `parts` micro-batches of about equal size.

    losses: how many losses the step has in all. A part for which nothing is left has item 0 with scale 0.
    """
    for step in torch.randperm(count, generator=generator).tensor_split(updates):
        scale = losses / max(1, len(step))
        nothing = Micro(torch.zeros(1, dtype=torch.long), 0.0)
        yield [Micro(items, scale) if len(items) else nothing for items in step.tensor_split(parts)]


def gathered(rows: Tensor, part: int) -> tuple[Tensor, Tensor]:
    """All processes' rows `[R N, ...]`, in the order one process would have had, and which of them are ours.

    part: rows that follow each other in one process before the next one's turn.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows, torch.arange(len(rows))
    ranks, device = dist.get_world_size(), rows.device
    if dist.get_backend() == "nccl":
        rows = rows.cuda()
    parts = [torch.empty_like(rows) for _ in range(ranks)]
    dist.all_gather(parts, rows.contiguous())
    return woven([one.to(device) for one in parts], part), mine(len(rows), part, dist.get_rank(), ranks)


def woven(parts: list[Tensor], part: int) -> Tensor:
    """Each process's rows, `part` of them at a time in turn."""
    return torch.stack([rows.unflatten(0, (-1, part)) for rows in parts], 1).flatten(0, 2)


def mine(count: int, part: int, rank: int, ranks: int) -> Tensor:
    """Where the `count` rows of a process are among the woven ones."""
    return torch.arange(count * ranks).view(-1, ranks, part)[:, rank].flatten()
