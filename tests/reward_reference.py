"""ImageReward's forward pass out of its published tensors in plain functions: what the port is measured by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
HEAD = 64


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def normed(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of `[B, L, D]` in heads of 64; mask: `[B, L]`, 1 for what may be seen."""
    q, k, v = (x.unflatten(-1, (-1, HEAD)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / HEAD**0.5
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None] == 0, -1e9)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def seen(state: State, x: Tensor) -> Tensor:
    """The vision tower's states of prepared pictures: timm's pre-norm transformer."""
    at = "blip.visual_encoder."
    weight, bias = (state[f"{at}patch_embed.proj.{part}"] for part in ("weight", "bias"))
    x = F.conv2d(x, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{at}cls_token"].expand(len(x), -1, -1), x], 1) + state[f"{at}pos_embed"]
    for i in range(2):
        block = f"{at}blocks.{i}"
        qkv = linear(state, f"{block}.attn.qkv", normed(state, f"{block}.norm1", x, 1e-6))
        x = x + linear(state, f"{block}.attn.proj", attend(*qkv.chunk(3, -1)))
        inner = F.gelu(linear(state, f"{block}.mlp.fc1", normed(state, f"{block}.norm2", x, 1e-6)))
        x = x + linear(state, f"{block}.mlp.fc2", inner)
    return normed(state, f"{at}norm", x, 1e-6)


def read(state: State, ids: Tensor, mask: Tensor, states: Tensor) -> Tensor:
    """The text tower's states: BERT, post-norm, that looks at the picture after it looked at itself."""
    at = "blip.text_encoder."
    words = state[f"{at}embeddings.word_embeddings.weight"][ids]
    x = words + state[f"{at}embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = normed(state, f"{at}embeddings.LayerNorm", x, 1e-12)
    for i in range(2):
        layer = f"{at}encoder.layer.{i}"
        for name, source, seen_by in (("attention", None, mask), ("crossattention", states, None)):
            q, k, v = (
                linear(state, f"{layer}.{name}.self.{part}", x if part == "query" or source is None else source)
                for part in ("query", "key", "value")
            )
            found = linear(state, f"{layer}.{name}.output.dense", attend(q, k, v, seen_by))
            x = normed(state, f"{layer}.{name}.output.LayerNorm", found + x, 1e-12)
        inner = F.gelu(linear(state, f"{layer}.intermediate.dense", x))
        x = normed(state, f"{layer}.output.LayerNorm", linear(state, f"{layer}.output.dense", inner) + x, 1e-12)
    return x


def head(state: State, prefix: str, x: Tensor) -> Tensor:
    """The five linear layers one after the other, as published; dropout does nothing in evaluation."""
    for number in (0, 2, 4, 6, 7):
        x = linear(state, f"{prefix}layers.{number}", x)
    return x.squeeze(-1)


def image_reward(state: State, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """`[B]` rewards of prepared pictures and tokens."""
    first = read(state, ids, mask, seen(state, x))[:, 0]
    return (head(state, "mlp.", first) - 0.16717362830052426) / 1.0333394966054072
