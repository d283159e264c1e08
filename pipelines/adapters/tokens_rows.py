"""Rows beside an embedding table that learn, in peft's TrainableTokens layer without its copy of the table."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn

NAME = "default"  # peft's name for the one adapter a network carries


class Rows(TrainableTokensLayer):
    """An embedding table whose ids from `first` on are rows that learn; the table is never written to.

    peft's own forward pass copies the whole table for each call and fills a gradient of its size, 150 MB each for
    CLIP-L; this one looks the new ids up apart. Off, or for other ids, it is the table bit for bit. start: `[n, D]`.
    """

    def __init__(self, table: nn.Embedding, first: int, start: Tensor) -> None:
        super().__init__(table, NAME, None)
        self.first, self.still = first, False
        start = start.detach().to(table.weight.device, torch.float32)
        self.token_indices[NAME] = list(range(first, first + len(start)))
        self.trainable_tokens_delta[NAME] = nn.Parameter(start.clone())
        self.trainable_tokens_original[NAME] = start.to(table.weight.dtype)
        self.norms = start.norm(dim=1, keepdim=True)

    @property
    def rows(self) -> nn.Parameter:
        """What learns, float32 `[n, D]`."""
        found: nn.Parameter = self.trainable_tokens_delta[NAME]
        return found

    @property
    def start(self) -> Tensor:
        """What they were, `[n, D]`."""
        found: Tensor = self.trainable_tokens_original[NAME]
        return found

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = self.start if self._disable_adapters else self.rows
        rows = rows.detach() if self.still else rows
        place = x - self.first
        new = (place >= 0) & (place < len(rows))
        known: Tensor = self.base_layer(x.masked_fill(new, 0))
        learnt = nn.functional.embedding(place.clamp(0, len(rows) - 1), rows).to(known.dtype)
        return torch.where(new.unsqueeze(-1), learnt, known)

    @torch.no_grad()
    def keep_norms(self) -> None:
        """Each row as long as it was at the start."""
        now = self.rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        self.rows.mul_(self.norms.to(now.device) / now)
