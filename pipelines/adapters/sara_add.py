"""Several SaRA files in one network: changes add on the union of their entries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from studio.pipelines.adapters.sara import Config, SaRA
from studio.pipelines.adapters.sara_files import built
from studio.pipelines.adapters.sara_reading import Change, base_of, read
from studio.pipelines.protocols import Backbone


def stack(model: Backbone, parts: Sequence[tuple[Path, float]], config: Config | None = None) -> SaRA:
    """Several files in one adapter: the base plus the sum of strength * change, on the union of their entries."""
    files = [(read(model, Path(path)), strength) for path, strength in parts]
    total = add([(_less(model, file.values), strength) for file, strength in files])
    base = {name: (index, base_of(model, name)[index]) for name, (index, _) in total.items()}
    values = {name: (index, base[name][1] + change) for name, (index, change) in total.items()}
    return built(model, values, config or files[0][0].config, max(file.threshold for file, _ in files))


def add(parts: Sequence[tuple[Change, float]]) -> Change:
    """The sum of strength * change on the union of indices; the same to the bit in any order."""
    total: Change = {}
    for name in sorted({name for change, _ in parts for name in change}):
        mine = [(*change[name], strength) for change, strength in parts if name in change]
        union = torch.cat([index for index, _, _ in mine]).unique()
        rows = torch.zeros(len(mine), len(union), dtype=torch.float64)
        for row, (index, change, strength) in zip(rows, mine, strict=True):
            row[torch.searchsorted(union, index)] = strength * change
        total[name] = union, rows.sort(0).values.sum(0)
    return total


def _less(model: Backbone, values: Change) -> Change:
    """Changes instead of values."""
    return {name: (index, found - base_of(model, name)[index]) for name, (index, found) in values.items()}
