"""The nuclear norm: the sum of singular values, the convex measure of a matrix' rank."""

from __future__ import annotations

import torch
from torch import Tensor


def nuclear(matrix: Tensor) -> Tensor:
    """Sum of the singular values of `[m, n]`, float32 at least; its (sub)gradient is U V^T of the thin SVD."""
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    with torch.autocast(matrix.device.type, enabled=False):
        return torch.linalg.svdvals(wide).sum()
