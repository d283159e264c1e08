"""What CLIP text encoders make of a phrase: one vector at its true end, and how far two phrases are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from studio.pipelines.adapters.tokens_tables import holders, tokenizer_of

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

Pool = Literal["eos", "placeholder"]


def features(model: Backbone, phrases: Sequence[str], pool: Pool = "eos") -> list[Tensor]:
    """One `[N, D]` for each CLIP text encoder: the state after the final norm, through the projection where it has one.

    pool: "eos", at the first end-of-text token the TOKENIZER names (a config that says 2 is wrong about it); or
    "placeholder", at the highest id, where transformers looks under such a config: on a new token, which has not heard
    the words behind it. One call per encoder; a graph where the encoder learns. The toy gives the mean of its states.
    """
    return [_feature(model, part, phrases, pool) for part in holders(model)]


def _feature(model: Backbone, part: str, phrases: Sequence[str], pool: Pool) -> Tensor:
    tokenizer = model.tokenizers[tokenizer_of(part)]
    encoder: Any = model.text_encoders[part]
    if not hasattr(tokenizer, "is_fast"):
        states: Tensor = encoder(tokenizer(phrases).to(model.device))
        return states.mean(1)
    limit = encoder.config.max_position_embeddings
    read = tokenizer(list(phrases), padding="longest", max_length=limit, truncation=True, return_tensors="pt")
    ids = read.input_ids.to(model.device)
    states = encoder(ids).last_hidden_state
    at = position(ids, tokenizer.eos_token_id, pool)
    pooled = states[torch.arange(len(at), device=at.device), at]
    project: Any = getattr(encoder, "text_projection", None)
    return project(pooled) if isinstance(project, nn.Module) else pooled


def position(ids: Tensor, eos: int, pool: Pool) -> Tensor:
    """Where each row `[N, L]` is read, `[N]`."""
    return ids.argmax(-1) if pool == "placeholder" else (ids == eos).int().argmax(-1)


def distance(one: Tensor, other: Tensor) -> Tensor:
    """1 - cos of the rows of two `[N, D]`, `[N]` in 0..2; exactly 0 for equal rows, float32."""
    one, other = (nn.functional.normalize(rows.float(), dim=-1) for rows in (one, other))
    return (one - other).square().sum(-1) / 2  # without the cancellation of 1 - cos


def apart(ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The distance of each phrase to its counterpart, averaged over the text encoders, `[N]`."""
    return torch.stack([distance(one, other) for one, other in zip(ones, others, strict=True)]).mean(0)


def drift(model: Backbone, pairs: Sequence[tuple[str, str]], phrase: str = "a photo of a {}") -> float:
    """Semantic drift: how far `<token> <class>` has moved from `<class>` in the text space, the mean over the pairs.

    0 is the class itself. pairs: token and class word. The class is what the ORIGINAL encoder makes of it.
    """
    with torch.no_grad():
        return float(apart(features(model, personal(pairs, phrase)), targets(model, pairs, phrase)).mean())


def personal(pairs: Sequence[tuple[str, str]], phrase: str) -> list[str]:
    """The phrases with token and class word."""
    return [phrase.replace("{}", f"{token} {word}") for token, word in pairs]


@torch.no_grad()
def targets(model: Backbone, pairs: Sequence[tuple[str, str]], phrase: str) -> list[Tensor]:
    """What the original encoders make of the phrases with the class word alone, at their end; no graph."""
    texts = [phrase.replace("{}", word) for _, word in pairs]
    if model.adapter is None:
        return features(model, texts)
    with model.adapter.off():
        return features(model, texts)
