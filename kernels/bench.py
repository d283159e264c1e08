"""How fast each attention implementation is here: `python -m studio.kernels.bench`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from studio.kernels.probing import probe, seconds
from studio.kernels.table import KINDS

Shape = tuple[int, int, int, int, int]  # batch, heads, queries, keys, channels of a head

# self- and cross-attention of the embedded UNet, batch 4 and 16; the last row is SD 1.x at 512 pixels
SHAPES: tuple[Shape, ...] = (
    (4, 4, 256, 256, 16),
    (4, 4, 256, 77, 16),
    (4, 4, 64, 64, 32),
    (4, 4, 64, 77, 32),
    (4, 4, 16, 16, 64),
    (16, 4, 256, 256, 16),
    (16, 4, 64, 64, 32),
    (1, 8, 4096, 4096, 40),
)


class Row(NamedTuple):
    """One measurement; times in milliseconds, `ratio` is the time of forward and backward over sdpa's."""

    shape: Shape
    dtype: str
    implementation: str
    forward: float
    both: float
    ratio: float


def attention(
    shapes: Sequence[Shape] = SHAPES,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
    device: str = "cpu",
    least: float = 0.2,
) -> Iterator[Row]:
    """Shortest times of every implementation that answers, over `least` seconds each; sdpa comes first."""
    for dtype in dtypes:
        kinds = [kind for kind in KINDS if probe(kind, device, dtype).ok]
        for shape in shapes:
            yield from _rows(shape, dtype, device, kinds, least)


def _rows(shape: Shape, dtype: torch.dtype, device: str, kinds: Sequence[str], least: float) -> Iterator[Row]:
    batch, heads, queries, keys, dim = shape
    q = torch.empty(batch, heads, queries, dim, device=device, dtype=dtype)
    k = torch.empty(batch, heads, keys, dim, device=device, dtype=dtype)
    base = None
    for kind in kinds:
        forward, both = (1e3 * seconds(kind, q, k, grad, least) for grad in (False, True))
        base = both if base is None else base
        yield Row(shape, str(dtype).removeprefix("torch."), kind, forward, both, both / base)


def main() -> None:
    """Prints the table for the accelerator, or for the CPU where there is none."""
    from rich.console import Console
    from rich.table import Table

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    table = Table("BxHxLxSxD", "type", "attention", "forward ms", "+ backward ms", "to sdpa")
    for row in attention(device=str(device or "cpu")):
        size = "x".join(map(str, row.shape))
        times = (f"{value:.2f}" for value in (row.forward, row.both, row.ratio))
        table.add_row(size, row.dtype, row.implementation, *times)
    Console().print(table)


if __name__ == "__main__":
    main()
