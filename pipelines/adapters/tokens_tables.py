"""The embedding tables of CLIP text encoders, and rows made from theirs for new words to start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

TABLE = "token_embedding"  # CLIP's name for it, and the toy's; T5 has another and learns no tokens


def holders(model: Backbone) -> dict[str, nn.Module]:
    """The modules with an embedding table of CLIP's, by the text encoder's name."""
    found = {}
    for part, encoder in model.text_encoders.items():
        for module in encoder.modules():
            if isinstance(getattr(module, TABLE, None), nn.Module):
                found[part] = module
    return found


def tokenizer_of(part: str) -> str:
    """The name stock pipelines give the tokenizer of a text encoder."""
    return part.replace("text_encoder", "tokenizer")


def started(table: Tensor, ids: Sequence[int], vectors: int) -> Tensor:
    """`[vectors, D]` from a word's rows: themselves in turn, or, where there are more, their mean at their length."""
    rows = table[list(ids)].float()
    if len(rows) > vectors:
        mean = rows.mean(0, keepdim=True)
        rows = mean / mean.norm() * rows.norm(dim=1).mean()
    return rows[[number % len(rows) for number in range(vectors)]]


def random(table: Tensor, seed: int, vectors: int) -> Tensor:
    """`[vectors, D]` in random directions, as long as the table's rows are on average."""
    own = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(vectors, table.shape[1], generator=own, device="cpu").to(table.device)
    return drawn / drawn.norm(dim=1, keepdim=True) * table.float().norm(dim=1).mean()
