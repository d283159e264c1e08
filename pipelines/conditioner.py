"""Edits of prompt embeddings. DECOR: an embedding without its component in the span of undesired words.

X' = X - strength X V V^T, with V an orthonormal basis of the undesired words' states; X are all states of a prompt, its
padding too. Each text encoder has a span of its own. Pooled embeddings stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from studio.pipelines.conditioner_blocks import blocks, content
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone, Cond, Guidance, Predict

Edit = Callable[[Cond], Cond]


def span(states: Tensor) -> Tensor:
    """An orthonormal basis `[D, r]`, float32, of the rows of states `[N, D]`: of what in them is more than rounding."""
    _, sizes, directions = torch.linalg.svd(states.cpu().double(), full_matrices=False)  # Apple's GPUs have no float64
    rounding = 4 * torch.finfo(states.dtype).eps * sizes.norm()  # rounding moves a size by at most eps / 2 of this norm
    return directions[sizes > rounding].T.float().to(states.device)


def project(states: Tensor, basis: Tensor, strength: float = 1.0) -> Tensor:
    """States `[..., D]` less `strength` of their component in the span of an orthonormal basis `[D, r]`."""
    if strength == 0 or not basis.shape[1]:
        return states
    exact = states.float()
    return (exact - strength * (exact @ basis) @ basis.T).to(states.dtype)


def decor(model: Backbone, undesired: Sequence[str], strength: float = 1.0, padding: bool = False) -> Edit:
    """DECOR: what removes `strength` (0..1) of the undesired words, each text embedded by itself, from a conditioning.

    padding: the states after the words span what is removed too. Raises UsageError for texts without words.
    """
    texts = [text for text in (text.strip() for text in undesired) if text]
    if not texts:
        raise UsageError("DECOR removes words from a prompt: name at least one")
    tokens, bases = model.embed(texts).tokens, []
    for block in blocks(model):
        states, tokenizer = block.of(tokens), model.tokenizers[block.encoder.replace("text_encoder", "tokenizer")]
        places = [content(tokenizer, text, states.shape[1], padding) for text in texts]
        bases.append((block, span(torch.cat([row[place] for row, place in zip(states, places, strict=True)]))))

    def edit(cond: Cond) -> Cond:
        changed = cond.tokens.clone()
        for block, basis in bases:
            changed[:, block.rows, block.columns] = project(block.of(cond.tokens), basis, strength)
        return replace(cond, tokens=changed)

    return edit


def edited(edit: Edit, guidance: Guidance) -> Guidance:
    """A guidance whose prompt is edited; what its other branches are told is the caller's to edit."""

    def guide(predict: Predict) -> Predict:
        guided = guidance(predict)
        return lambda x, t, cond: guided(x, t, edit(cond))

    return guide
