"""Where the words of each text encoder are in a model's text states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone

ALL = slice(None)


@dataclass(frozen=True)
class Block:
    """Where `Cond.tokens` `[B, L, D]` hold the states of one text encoder."""

    encoder: str
    rows: slice
    columns: slice

    def of(self, tokens: Tensor) -> Tensor:
        """The encoder's states, a view."""
        return tokens[:, self.rows, self.columns]


def blocks(model: Backbone) -> list[Block]:
    """The blocks of a model's text states. Raises UsageError for a family whose layout is not known here."""
    if list(model.text_encoders) == ["text_encoder"] and model.prediction != "flow":
        return [Block("text_encoder", ALL, ALL)]
    from studio.pipelines.sd3 import CLIP_LENGTH, SD3

    if not isinstance(model, SD3):
        raise UsageError(f"DECOR does not know how {type(model).__name__} lays out the states of its text encoders")
    length = getattr(model.tokenizers.get("tokenizer"), "model_max_length", CLIP_LENGTH)
    second: Any = model.text_encoders.get("text_encoder_2")
    both = int(model.config.pooled_projection_dim)
    border = both - int(second.config.projection_dim) if second is not None else both
    clips, after = slice(0, length), slice(length, None)
    found = [
        Block("text_encoder", clips, slice(0, border)),
        Block("text_encoder_2", clips, slice(border, both)),
        Block("text_encoder_3", after, ALL),
    ]
    return [block for block in found if block.encoder in model.text_encoders]


def content(tokenizer: Any, text: str, length: int, padding: bool = False) -> list[int]:
    """Positions of a text's words among the `length` states of its encoder; with padding, all that follow too."""
    if hasattr(tokenizer, "is_fast"):
        options = {"truncation": True, "max_length": length, "return_special_tokens_mask": True}
        special = tokenizer(text, **options)["special_tokens_mask"]
        found = [place for place, mark in enumerate(special) if not mark]
    else:  # the toy's: one token that begins, one for each word
        found = list(range(1, min(length, 1 + len(text.split()))))
    return list(range(found[0], length)) if found and padding else found
