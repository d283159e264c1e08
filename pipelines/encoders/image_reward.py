"""ImageReward's network in transformers' BLIP parts: its own package needs libraries that are long gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studio.pipelines.encoders import files
from studio.pipelines.encoders.affine import folded
from studio.pipelines.encoders.base import Loaded, shared
from studio.pipelines.encoders.clip import PREPROCESSING
from studio.pipelines.encoders.framing import OPENAI, Framing
from studio.pipelines.encoders.matching import Matcher
from studio.pipelines.encoders.single import SingleFile, fill, tensors, texts
from studio.pipelines.errors import ModelError

BASE = "THUDM/ImageReward"
TOKENIZER = "google-bert/bert-base-uncased"  # the two tokens that BLIP adds to it stand in no prompt
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of its training, by the release
LONGEST = 35
HEAD = 64  # numbers per attention head, in both towers
VISION, TEXT = "blip.visual_encoder.", "blip.text_encoder."
UNUSED = ("blip.vision_proj.", "blip.text_proj.", f"{TEXT}embeddings.position_ids")
RENAMED = (  # timm's names for the parts of a vision transformer, and transformers'
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("blocks.", "encoder.layers."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)


class Network(nn.Module):
    """BLIP's vision tower, its text tower with cross-attention, and the head as one affine map."""

    def __init__(self, vision: nn.Module, text: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.vision, self.text, self.weight, self.bias = vision, text, nn.Buffer(weight), nn.Buffer(bias)

    def forward(self, x: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """`[B]` float32, standardised as published."""
        states = self.vision(x).last_hidden_state
        joint = self.text(**tokens, encoder_hidden_states=states).last_hidden_state[:, 0]
        return (joint.float() @ self.weight + self.bias - MEAN) / STD


class ImageReward(SingleFile, Matcher):
    """ImageReward v1.0."""

    file = "ImageReward.pt"
    preprocessing = PREPROCESSING

    def load(self, folder: Path) -> Loaded:
        """Network, framing and tokenizer out of the file `folder` and what lies beside it."""
        state = known(tensors(folder))
        eye, reader = vision(state).to(self.dtype), text(state).to(self.dtype)
        model = Network(eye, reader, *folded(state, "mlp.layers.")).to(self.device).eval().requires_grad_(False)
        side = eye.config.image_size
        return Loaded(model, Framing(side, side, *OPENAI), files.tokenizer(texts(folder.parent, TOKENIZER)), LONGEST)

    def look(self, x: Tensor) -> Tensor:
        """The vision tower's first state `[B, W]` of prepared pictures."""
        return self.loaded.model.vision(x).last_hidden_state[:, 0]

    def numbers(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        """`[B, 1]`: the reward."""
        return self.loaded.model(x, self.tokens(prompts)).unsqueeze(1)


def known(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors. Raises ModelError when one is of no part of ImageReward."""
    for name in state:
        if not name.startswith((VISION, TEXT, "mlp.layers.", *UNUSED)):
            raise ModelError(f"weights of another network than ImageReward: {name}; {files.WITHOUT}")
    return state


def vision(state: Mapping[str, Tensor]) -> Any:
    """transformers' BlipVisionModel with the checkpoint's vision tower in it."""
    from accelerate import init_empty_weights
    from transformers import BlipVisionConfig, BlipVisionModel

    ours = part(state, VISION)
    width, _, _, patch = ours["patch_embed.proj.weight"].shape
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=ours["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=layers(ours, "blocks."),
        num_attention_heads=width // HEAD,
        image_size=round((ours["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    with init_empty_weights(include_buffers=False):
        model = BlipVisionModel(config)
    fill(model, {renamed(name): tensor for name, tensor in ours.items()})
    return model


def text(state: Mapping[str, Tensor]) -> Any:
    """transformers' BlipTextModel with the checkpoint's text tower in it, whose names are the same."""
    from accelerate import init_empty_weights
    from transformers import BlipTextConfig, BlipTextModel

    ours = part(state, TEXT)
    words, width = ours["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=ours["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=ours["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=layers(ours, "encoder.layer."),
        num_attention_heads=width // HEAD,
        max_position_embeddings=ours["embeddings.position_embeddings.weight"].shape[0],
    )
    with init_empty_weights(include_buffers=False):
        model = BlipTextModel(config, add_pooling_layer=False)
    fill(model, ours)
    return model


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below `prefix`, without it and without those that the reward does not use."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix) and not name.startswith(UNUSED)
    }


def layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers the tensors below `prefix` are of."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def renamed(name: str) -> str:
    """A vision tensor's name in transformers' BLIP."""
    if name.startswith("norm."):
        return f"post_layer{name}"
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours, 1)
    return name


def image_reward(source: str, revision: str, device: torch.device, dtype: torch.dtype) -> ImageReward:
    """The ImageReward in a file, folder or hub repository; nothing is read yet."""
    return shared(ImageReward, source, revision, device, dtype)
