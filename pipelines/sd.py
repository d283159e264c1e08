"""Stable Diffusion 1.x and 2.x and the embedded base: a UNet that hears the prompt from one CLIP encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor

from studio.pipelines import checkpoints
from studio.pipelines.backbone import Latent, tokenize
from studio.pipelines.ddpm import DDPM
from studio.pipelines.protocols import Cond

CLASSES = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
KEYS = ("cond_stage_model.",)  # what only this family's single files contain


class SD(Latent, DDPM):
    """Epsilon or v-prediction in the latents of an AutoencoderKL (Rombach et al. 2022)."""

    net_name = "unet"
    pipeline_options = {"requires_safety_checker": False}

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        size, depth = pipe.unet.config.sample_size, len(pipe.unet.config.block_out_channels)
        self.pixels = (size if isinstance(size, int) else max(size)) * self.factor
        self.multiple = self.factor * 2 ** (depth - 1)

    def embed(self, prompts: Sequence[str]) -> Cond:
        """The text encoder's last states `[B, L, D]`, as the stock pipeline makes them.

        Learned tokens of several vectors are spelled out. Gradients flow into the encoder where it learns.
        """
        tokenizer, encoder = self.tokenizers["tokenizer"], self.text_encoders["text_encoder"]
        words = TextualInversionLoaderMixin().maybe_convert_prompt(list(prompts), tokenizer)
        inputs = tokenize(tokenizer, words, tokenizer.model_max_length)
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = inputs.attention_mask.to(self.device) if masked else None
        return Cond(encoder(inputs.input_ids.to(self.device), attention_mask=mask)[0])

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        guidance = cond.extra.get("timestep_cond")  # what a network with time_cond_proj_dim hears, `guidance_hearing`
        return self.net(x, t, encoder_hidden_states=cond.tokens, timestep_cond=guidance, return_dict=False)[0]


def load(source: Path, device: torch.device, dtype: torch.dtype) -> SD:
    """The model in a diffusers folder or a single file. Raises ModelError."""
    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    return SD(checkpoints.stock(StableDiffusionPipeline, source, dtype, **parts)).to(device)
