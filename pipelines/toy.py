"""A two-channel model that runs in milliseconds: the whole `Backbone` protocol, for tests and first steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import torch
from diffusers import DDIMScheduler
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from studio.pipelines.ddpm import DDPM
from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import Cond
from studio.pipelines.weights import digest

CLASSES = ("Toy",)
NAMES = ("toy",)
CHANNELS, WIDTH, WORDS, LENGTH = 2, 16, 256, 8
POSTERIOR_STD = 0.01
COLOURS = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))  # what each latent channel says about red, green and blue


class Tokenizer:
    """Words -> ids by a stable hash: id 0 pads, 1 begins, every word is one of the others."""

    model_max_length = LENGTH
    size = WORDS
    added: Mapping[str, list[int]] = {}  # new words and their ids, from `size` on

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Ids `[B, 8]`; words past the seventh are cut off."""
        return torch.tensor([self.row(prompt) for prompt in prompts])

    def row(self, prompt: str) -> list[int]:
        known = {word: [2 + crc32(word.encode()) % (WORDS - 2)] for word in prompt.lower().split()}
        ids = [number for word in prompt.lower().split() for number in {**known, **self.added}[word]]
        return [1, *ids, *([0] * LENGTH)][:LENGTH]


class Words(nn.Module):
    """Ids `[B, L]` -> text states `[B, L, 16]`."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(WORDS, WIDTH)
        self.position_embedding = nn.Embedding(LENGTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class Attention(nn.Module):
    """One head of attention, with the names that LoRA presets look for."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        scores = self.to_q(x) @ self.to_k(context).transpose(1, 2) / math.sqrt(WIDTH)
        return self.to_out[0](scores.softmax(-1) @ self.to_v(context))


class Net(nn.Module):
    """Noisy latents `[B, 2, h, w]`, timesteps `[B]`, text `[B, L, 16]` -> noise `[B, 2, h, w]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1)
        self.time = nn.Linear(WIDTH, WIDTH)
        self.attn1, self.attn2 = Attention(), Attention()
        self.ff = FeedForward(WIDTH, mult=2, activation_fn="gelu")
        self.conv_out = nn.Conv2d(WIDTH, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        rates = torch.exp(-torch.arange(WIDTH // 2, device=x.device) * math.log(1000) / (WIDTH // 2))
        angles = t.float()[:, None] * rates
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1).to(x.dtype))
        hidden = (self.conv_in(x) + time[:, :, None, None]).flatten(2).transpose(1, 2)
        hidden = hidden + self.attn1(hidden, hidden)
        hidden = hidden + self.attn2(hidden, context)
        hidden = hidden + self.ff(hidden)
        return x + self.conv_out(hidden.transpose(1, 2).unflatten(2, x.shape[2:]))


class Toy(DDPM):
    """Pictures `[B, 3, 8, 8]` (any even size), latents `[B, 2, 4, 4]`, epsilon prediction."""

    net_name = "unet"
    pixels = 8
    multiple = factor = 2
    channels = CHANNELS

    def __init__(self) -> None:
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net, words = Net(), Words()
        super().__init__(net, scheduler, {"text_encoder": words}, {"tokenizer": Tokenizer()})

    def embed(self, prompts: Sequence[str]) -> Cond:
        """Text states `[B, 8, 16]`."""
        return Cond(self.text_encoders["text_encoder"](self.tokenizers["tokenizer"](prompts).to(self.device)))

    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `[B, 2, H/2, W/2]`, for pictures `[B, 3, H, W]` in -1..1."""
        mix = torch.linalg.pinv(torch.tensor(COLOURS)).to(images.device)
        pooled = nn.functional.avg_pool2d(images.float(), 2)
        mean = torch.einsum("ck,bkhw->bchw", mix, pooled)
        return mean, torch.full_like(mean, POSTERIOR_STD)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]`, about -1..1."""
        mix = torch.tensor(COLOURS, device=latents.device)
        colours = torch.einsum("kc,bchw->bkhw", mix, latents.float())
        return nn.functional.interpolate(colours, scale_factor=2.0)

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.net(x, t, cond.tokens)

    def vae_fingerprint(self) -> str:
        """sha256 of what decides the latents."""
        return digest({}, [COLOURS, POSTERIOR_STD])

    def pipeline(self) -> Any:
        """Always a ModelError: no tool but ours knows this model."""
        raise ModelError("the toy model has no stock diffusers pipeline: train on `embedded` to use the file elsewhere")


def load(source: Any, device: torch.device, dtype: torch.dtype) -> Toy:
    """The one toy model; `source` is ignored, the weights are seeded."""
    return Toy().to(device, dtype)
