"""Order statistics of numbers that are too many to sort: exact, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Scores = Callable[[], Iterable[Tensor]]
"""Makes the tensors of scores anew, `[n]` each, float32 or float64 and >= 0."""

DIGIT = 16  # bits


def nth(scores: Scores, rank: int) -> float:
    """The score of this rank, from 0, among all tensors of scores >= 0: exact, and without sorting or joining them.

    Such floats are in the order of their bits, so that digits can be counted from the front.
    """
    found = 0
    bits = 8 * max(one.element_size() for one in scores())
    as_float, as_int = (torch.float64, torch.int64) if bits == 64 else (torch.float32, torch.int32)
    for shift in range(bits - DIGIT, -1, -DIGIT):
        counts = torch.zeros(2**DIGIT, dtype=torch.int64)
        for one in scores():
            keys = one.to(as_float).view(as_int)
            if shift + DIGIT < bits:
                keys = keys[(keys >> (shift + DIGIT)) == found]
            counts += torch.bincount((keys >> shift) & (2**DIGIT - 1), minlength=2**DIGIT).cpu()
        below = counts.cumsum(0)
        digit = int(torch.searchsorted(below, rank, right=True))
        rank -= int(below[digit - 1]) if digit else 0
        found = found << DIGIT | digit
    return float(torch.tensor(found, dtype=as_int).view(as_float))
