"""ClassDiffusion: DreamBooth with a new token that keeps the meaning of its class, so that the subject composes.

Huang et al. 2024, arXiv 2405.17532. L = L_reconstruction + spl_weight * mean over concepts of
1 - cos(E("a photo of a <token> <class>"), E("a photo of a <class>")), E the text encoder's state at the end of text.
Cross-attention's keys and values learn, and the rows of the new token. Name the class: --class-word dog.
The public code also zooms pictures; off here, so that methods see the same ones. --data.zooms 16 switches it on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from studio.pipelines import phrases
from studio.pipelines.adapters import lora, tokens
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Adapter, Backbone, Stream
from studio.trainers import dreambooth
from studio.trainers.base import Loss
from studio.trainers.dreambooth import combine, embed, min_snr, noised, per_sample

# what hears the text: a UNet's cross-attention, or the text's half of an MMDiT's joint attention
HEARING = r"(.*attentions\..*\.)?attn2\.to_[kv]|.*\.attn\.add_[kv]_proj"


class Hearing(lora.Config):
    """LoRA of the keys and values that are made of text; a rank of a layer's size is the published full rank."""

    targets: Annotated[
        str,
        Field(description="attention, ff, conv (joined by +), all, module suffixes a,b or a regular expression"),
    ] = HEARING
    rank: Annotated[int, Field(ge=1, le=4096, description="Rank of the update")] = 16


class Token(tokens.Config):
    """The trigger as a new token that starts as its class."""

    words: Annotated[
        tuple[str, ...], Field(description="New tokens as prompts spell them: <s1>, sks or {trigger}; empty: none")
    ] = ("{trigger}",)


class Config(dreambooth.Config):
    """ClassDiffusion's own settings. The published weight 1 goes with sum_channels; with mean, 1 / channels (0.25)."""

    spl_weight: Annotated[float, Field(ge=0, le=1e4, description="Weight of the semantic preservation loss")] = 0.25
    reduction: Annotated[
        Literal["mean", "sum_channels"],
        Field(description="Squared error of a latent pixel: mean over its channels, or their sum, as published"),
    ] = "mean"
    pool: Annotated[
        phrases.Pool, Field(description="Where a phrase is read: eos, its end, or placeholder, as the public code does")
    ] = "eos"
    phrase: Annotated[str, Field(pattern=r"\{\}", description="The phrase; {} is token and class word")] = (
        "a photo of a {}"
    )
    concepts: Annotated[
        tuple[str, ...], Field(description="Pairs of token and class word; empty: trigger and class word of the data")
    ] = ()
    detach_bos: Annotated[
        bool, Field(description="Keys and values of the token that begins a text teach nothing, as published")
    ] = True
    adapter: Annotated[Hearing, Field(description="Which weights learn")] = Hearing()
    tokens: Annotated[Token, Field(description="New tokens")] = Token()


def losses(config: Config, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]) -> Iterator[Loss]:
    """One loss per batch; UsageError where there is no class word, or nothing that hears the loss."""
    dreambooth.refuse_snr_for_flow(config.snr_gamma, model.prediction)
    pairs = concepts(config, adapter, data)
    ours, theirs = phrases.personal(pairs, config.phrase), phrases.targets(model, pairs, config.phrase)
    with bos_detached(model.net) if config.detach_bos else nullcontext():
        for batch in data:
            noisy = noised(model, batch, config.noise_offset)
            prediction = model.predict(noisy.x, noisy.t, embed(model, adapter, batch.prompts))
            errors = per_sample(prediction, noisy.target, batch.masks)
            errors = errors * (prediction.shape[1] if config.reduction == "sum_channels" else 1)
            weights = batch.weights * noisy.weight * min_snr(noisy, config.snr_gamma, model.prediction)
            loss = combine(errors * weights, batch, config.prior.weight)
            with nullcontext() if config.spl_weight else torch.no_grad():
                drift = phrases.apart(phrases.features(model, ours, config.pool), theirs).mean()
            value = loss.value + config.spl_weight * drift if config.spl_weight else loss.value
            yield Loss(value, {**loss.numbers, "drift": drift})


def concepts(config: Config, adapter: Any, data: Any) -> list[tuple[str, str]]:
    """Token and class word of each concept; UsageError where one is missing."""
    words = getattr(data, "dataset", config.data)  # a folder may bring words of its own
    said = config.concepts or (f"{words.trigger} {words.class_word}",)
    pairs = [(token, word.strip()) for token, _, word in (text.strip().partition(" ") for text in said)]
    for token, word in pairs:
        if not word:
            raise UsageError(f"class_diffusion: {token!r} has no class to stay near; give --class-word, such as dog")
        if config.spl_weight and token not in getattr(adapter, "words", ()):
            raise UsageError(f"class_diffusion: {token!r} is no new token: name it in tokens.words, or spl_weight = 0")
    return pairs


@contextmanager
def bos_detached(net: nn.Module) -> Iterator[None]:
    """Inside, no gradient goes through the keys and values of the first text token; what they are stays the same."""
    layers = [module for name, module in net.named_modules() if re.fullmatch(HEARING, name)]
    hooks = [layer.register_forward_hook(first_detached) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def first_detached(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A layer's output `[B, L, D]` with its first token cut from the graph."""
    return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)
