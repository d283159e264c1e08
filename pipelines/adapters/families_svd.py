"""Any update as a LoRA, for tools that know no other: truncated SVDs, and how much of the update they keep."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from studio.pipelines.adapters import lora
from studio.pipelines.adapters.families_layers import Family

ENERGY = 0.999  # of a layer's squared update: its rank is the smallest that keeps as much
LARGEST = 64  # rank of a layer, whatever it keeps


@dataclass
class Factors:
    """What the writer of LoRA files reads of a LoRA. kept: share of the squared update, by layer; lost: layers
    whose bias the update changes too, which no LoRA file holds.
    """

    config: lora.Config
    layers: lora.Layers = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    kind = "lora"

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors


def factors(adapter: Family) -> Factors:
    """The update of every layer as B A with strength 1."""
    made = Factors(lora.Config(targets=adapter.config.targets, rank=1))
    whole = left = 0.0
    for part, names in adapter.layers.items():
        made.layers[part] = {}
        for name in names:
            full = f"{part}.{name}"
            delta, bias = adapter.change(adapter._wrapped[full])
            down, up, kept = truncated(delta)
            made.tensors |= {f"{full}.lora_A.weight": down, f"{full}.lora_B.weight": up}
            made.layers[part][name] = (len(down), float(len(down)))
            made.kept[full] = kept
            energy = float(delta.square().sum())
            whole, left = whole + energy, left + kept * energy
            if bias is not None and bias.any():
                made.lost.append(full)
    made.kept[""] = left / whole if whole else 1.0
    first = max(rank for names in made.layers.values() for rank, _ in names.values())
    made.config = made.config.model_copy(update={"rank": first})
    return made


@torch.no_grad()
def truncated(delta: Tensor) -> tuple[Tensor, Tensor, float]:
    """A `[r, in, ...]`, B `[out, r, ...]` and the share of the squares of dW `[out, in, ...]` that B A keeps."""
    matrix = delta.flatten(1)
    total = float(matrix.square().sum())
    u, s, v = _svd(matrix)
    shares = s.square().cumsum(0) / (total or 1.0)
    rank = min(int((shares < ENERGY).sum()) + 1, len(s), LARGEST) if total else 1
    root = s[:rank].sqrt()
    down, up = root[:, None] * v[:, :rank].T, u[:, :rank] * root
    if delta.ndim == 4:
        down, up = down.view(rank, *delta.shape[1:]), up[:, :, None, None]
    return down, up, min(1.0, float(shares[rank - 1])) if total else 1.0


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V; for a large matrix only the first directions, found fast and the same every time."""
    if min(matrix.shape) <= 4 * LARGEST:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u, s, vh.T
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(matrix, q=2 * LARGEST, niter=4)
    return u, s, v
