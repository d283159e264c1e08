"""Which words of a prompt a picture contradicts, by the gradients of a CLIP (CLIP4DM, Nam et al., arXiv:2412.18404)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.pipelines.encoders.base import batches
from studio.pipelines.encoders.clip import Clip

PREFIX = "A photo depicts "
LAYERS = 3  # the last ones of the text tower
BATCH = 16
WORD = re.compile(r"[^\s.,]+|[.,]")
PUNCTUATION = frozenset('.,!"?;:')
Words = list[tuple[str, float]]


def attributed(encoder: Clip, pictures: Sequence[Tensor], prompts: Sequence[str]) -> tuple[Tensor, list[Words]]:
    """Cosines `[B]` of picture and prompt, and per pair its words with the share that each has in it.

    A word has the mean of its tokens' shares: negative where the picture speaks against it, NaN where the encoder does
    not read that far. NaN pictures have NaN shares. Raises ModelError.
    """
    features = encoder.image_features(list(pictures)).detach()
    cosines: list[Tensor] = []
    found: list[Words] = []
    for rows in batches(range(len(prompts)), BATCH):
        chunk = [PREFIX + prompts[row] for row in rows]
        cosine, shares, spans = shared_out(encoder, features[list(rows)], chunk)
        cosines.append(cosine)
        found += [words(*row) for row in zip(chunk, shares.cpu(), spans, strict=True)]
    return torch.cat(cosines), found


def shared_out(encoder: Clip, features: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, list[Any]]:
    """Cosines `[B]`, shares `[B, L]` of tokens in them, and each token's (start, end) in its text.

    features: `[B, D]` of the pictures. A share is gradient x attention from the text's end to the token, as a mean over
    heads and over the last layers, negative ones kept.
    """
    tokenizer, model = encoder.loaded.tokenizer, encoder.loaded.model
    tokens = tokenizer(
        list(texts), padding=True, truncation=True, max_length=encoder.loaded.longest, return_tensors="pt",
        return_offsets_mapping=True,
    )  # fmt: skip
    ids, mask = (tokens[name].to(encoder.device) for name in ("input_ids", "attention_mask"))
    with torch.enable_grad(), watched(model.text_model):
        out = model.text_model(input_ids=ids, attention_mask=mask, output_attentions=True)
        read = F.normalize(model.text_projection(out.pooler_output).float(), dim=-1)
        cosine = (read * features).sum(-1)
        kept = out.attentions[-LAYERS:]
        gradients = torch.autograd.grad(cosine.sum(), kept)  # a row's cosine depends on its own attention only
    parts = [(g.float() * a.float()).mean(1) for g, a in zip(gradients, kept, strict=True)]
    shares = torch.stack(parts).mean(0).detach()
    end = mask.sum(-1) - 1
    return cosine.detach(), shares[torch.arange(len(end)), end], tokens["offset_mapping"].tolist()


@contextmanager
def watched(tower: Any) -> Iterator[None]:
    """Inside, the text tower gives out its attention, with gradients to it although its weights are frozen."""
    before = tower.config._attn_implementation
    hook = tower.embeddings.register_forward_hook(lambda module, given, found: found.requires_grad_())
    tower.set_attn_implementation("eager")  # fused kernels never make the matrix; the picture's tower keeps its own
    try:
        yield
    finally:
        tower.set_attn_implementation(before)
        hook.remove()


def words(text: str, shares: Tensor, spans: Sequence[Sequence[int]]) -> Words:
    """The words behind PREFIX, less punctuation, with the mean share of their tokens."""
    found = []
    for match in WORD.finditer(text, len(PREFIX)):
        inside = [
            float(share)
            for share, (start, end) in zip(shares, spans, strict=True)
            if start < end and match.start() <= start < match.end()
        ]
        if not set(match.group()) <= PUNCTUATION:
            found.append((match.group(), sum(inside) / len(inside) if inside else float("nan")))
    return found
