"""Stable Diffusion 3 and 3.5: a flow-matching MM-DiT with up to three text encoders (Esser et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Tensor
from torch.nn.functional import pad

from studio.pipelines import checkpoints, draws
from studio.pipelines.backbone import Latent, tokenize
from studio.pipelines.ddpm import gaussian, with_offset
from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import Cond, Noisy, Prediction

CLASSES = ("StableDiffusion3Pipeline",)
KEYS = ("model.diffusion_model.joint_blocks.",)  # what only this family's single files contain
TEXT_PARTS = [kind + suffix for kind in ("text_encoder", "tokenizer") for suffix in ("", "_2", "_3")]
CLIP_LENGTH, T5_LENGTH = 77, 256  # tokens, as in the stock pipeline
TOKEN_LIMITS = {"tokenizer_3": 256}  # T5_LENGTH as a literal: it is read without importing this file


class SD3(Latent):
    """Straight paths z = (1 - sigma) x0 + sigma eps; the network says eps - x0."""

    net_name = "transformer"
    prediction: Prediction = "flow"

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self.config, kind = pipe.transformer.config, type(pipe.scheduler)
        self.pixels = self.config.sample_size * self.factor
        self.multiple = self.config.patch_size * self.factor
        if not issubclass(kind, FlowMatchEulerDiscreteScheduler) or pipe.scheduler.config.invert_sigmas:
            raise ModelError(f"scheduler {kind.__name__}: SD3 needs FlowMatchEulerDiscreteScheduler as it is")
        self.timesteps: Tensor = kind.from_config(pipe.scheduler.config).timesteps

    def embed(self, prompts: Sequence[str]) -> Cond:
        """CLIP and T5 states one after another, `[B, L + 256, D]`, and both pooled CLIP states, `[B, P]`.

        As in the stock pipeline; an absent encoder gives zeros.
        """
        clips = [self._clip(prompts, suffix) for suffix in ("", "_2")]
        states, t5 = torch.cat([states for states, _ in clips], -1), self._t5(prompts)
        states = pad(states, (0, t5.shape[-1] - states.shape[-1]))
        return Cond(torch.cat([states, t5.to(states)], 1), torch.cat([pooled for _, pooled in clips], -1))

    def _clip(self, prompts: Sequence[str], suffix: str) -> tuple[Tensor, Tensor]:
        encoder = self.text_encoders.get(f"text_encoder{suffix}")
        length = getattr(self.tokenizers.get("tokenizer"), "model_max_length", CLIP_LENGTH)
        if encoder is None:
            zeros = self._zeros(len(prompts), length, self._absent_width())
            return zeros, zeros[:, 0]
        ids = tokenize(self.tokenizers[f"tokenizer{suffix}"], prompts, length).input_ids
        out = encoder(ids.to(self.device), output_hidden_states=True)
        return out.hidden_states[-2], out[0]

    def _absent_width(self) -> int:
        """Width of each absent CLIP encoder: its states and its pooled state are equally wide in SD3."""
        clips: list[Any] = [self.text_encoders.get(name) for name in ("text_encoder", "text_encoder_2")]
        present = sum(clip.config.projection_dim for clip in clips if clip is not None)
        return (self.config.pooled_projection_dim - present) // clips.count(None)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def _t5(self, prompts: Sequence[str]) -> Tensor:
        encoder = self.text_encoders.get("text_encoder_3")
        if encoder is None:
            return self._zeros(len(prompts), T5_LENGTH, self.config.joint_attention_dim)
        ids = tokenize(self.tokenizers["tokenizer_3"], prompts, T5_LENGTH).input_ids
        return encoder(ids.to(self.device))[0]

    def noise(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
        *,
        t: Tensor | None = None,
        eps: Tensor | None = None,
        offset: float = 0.0,
    ) -> Noisy:
        """Noised latents z = (1 - sigma) x0 + sigma eps, target eps - x0; t = 1000 sigma, shift included.

        sigma is the scheduler's at index floor(u T), u logit-normal (0, 1). Indices count from the noisy end,
        so a positive mean of u would mean less noise, unlike in the paper's formula. Draws come from the CPU
        `generator` in the order eps, t, offset. snr is ((1 - sigma) / sigma)^2, at most 1e12.
        """
        eps = gaussian(latents, generator) if eps is None else eps.to(latents.device)
        t = self._draw(len(latents), generator) if t is None else t
        eps = with_offset(eps, offset, generator)
        x0, t = latents.float(), t.to(latents.device, torch.float32)
        level = t / self.scheduler.config.num_train_timesteps
        sigma, snr = level[:, None, None, None], ((1 - level) / level.clamp(min=1e-6)).square()
        return Noisy((1 - sigma) * x0 + sigma * eps, t, eps - x0, snr, torch.ones_like(level), x0, eps)

    def _draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        def densities(rows: int) -> Tensor:
            return compute_density_for_timestep_sampling(
                "logit_normal", rows, logit_mean=0.0, logit_std=1.0, generator=generator
            )

        density = draws.draw(densities, count, generator)
        index = (density * len(self.timesteps)).long().clamp(max=len(self.timesteps) - 1)
        return self.timesteps[index]

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.net(
            x,
            encoder_hidden_states=cond.tokens,
            pooled_projections=cond.pooled,
            timestep=t,
            return_dict=False,
        )[0]


def load(source: Path, device: torch.device, dtype: torch.dtype) -> SD3:
    """The model in a diffusers folder or a single file. Raises ModelError."""
    parts = {"image_encoder": None, "feature_extractor": None}
    if source.is_dir():
        there = checkpoints.read_index(source)
        parts |= {name: None for name in TEXT_PARTS if there.get(name, [None])[0] is None}
    return SD3(checkpoints.stock(StableDiffusion3Pipeline, source, dtype, **parts)).to(device)
