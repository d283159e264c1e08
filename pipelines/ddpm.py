"""The noise schedule of epsilon and v-prediction models; noise draws that every family shares."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from studio.pipelines import draws
from studio.pipelines.backbone import Frozen
from studio.pipelines.errors import ModelError
from studio.pipelines.protocols import Noisy


class DDPM(Frozen):
    """A family with the noise schedule of Ho et al. (2020), and v as in Salimans and Ho (2022)."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise ModelError(
                f"scheduler: prediction_type '{kind}' is not supported; use an epsilon or v_prediction model"
            )
        self.prediction = kind
        self.alphas_cumprod: Tensor = DDPMScheduler.from_config(self.scheduler.config).alphas_cumprod

    def noise(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
        *,
        t: Tensor | None = None,
        eps: Tensor | None = None,
        offset: float = 0.0,
    ) -> Noisy:
        """Noised latents x = alpha x0 + sigma eps, t ~ U{0..T-1}; target eps, or v = alpha eps - sigma x0.

        Draws come from the CPU `generator` in the order eps, t, offset; a given `t` or `eps` replaces its
        draw. snr is alpha^2 / sigma^2, zero at the last step of a zero-terminal-SNR schedule (Lin et al.).
        """
        eps = gaussian(latents, generator) if eps is None else eps.to(latents.device)
        t = self._draw(len(latents), generator) if t is None else t
        eps = with_offset(eps, offset, generator)
        x0, t = latents.float(), t.to(latents.device)
        alpha2 = self.alphas_cumprod.to(latents.device)[t.long()]
        alpha, sigma = alpha2.sqrt()[:, None, None, None], (1 - alpha2).sqrt()[:, None, None, None]
        target = eps if self.prediction == "epsilon" else alpha * eps - sigma * x0
        return Noisy(alpha * x0 + sigma * eps, t, target, alpha2 / (1 - alpha2), torch.ones_like(alpha2), x0, eps)

    def _draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        steps = len(self.alphas_cumprod)
        return draws.draw(lambda rows: torch.randint(steps, (rows,), generator=generator), count, generator)


def gaussian(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape of `like`, float32, drawn on the CPU and moved to its device."""
    drawn = draws.draw(lambda rows: torch.randn(rows, *like.shape[1:], generator=generator), len(like), generator)
    return drawn.to(like.device)


def with_offset(eps: Tensor, offset: float, generator: torch.Generator | None) -> Tensor:
    """Noise plus one draw per sample and channel times `offset` (offset noise, Guttenberg 2023)."""
    return eps + offset * gaussian(eps[:, :, :1, :1], generator) if offset else eps
