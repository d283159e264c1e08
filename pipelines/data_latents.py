"""The latents of views: their posteriors through the cache, and draws from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from studio.pipelines.cache import Cache, address
from studio.pipelines.data_view import View
from studio.pipelines.data_zoom import WHOLE


class Encoder(Protocol):
    """What the stream needs of a model: the posterior of pictures, as mean and std of the scaled latents."""

    device: torch.device

    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]: ...
    def vae_fingerprint(self) -> str: ...


class Latents:
    """Posteriors of views by `model`, kept in `cache` (None: nowhere) under what decides them."""

    def __init__(self, model: Encoder, cache: Cache | None) -> None:
        self.model, self.cache, self.autoencoder = model, cache, model.vae_fingerprint()

    def draw(self, views: Sequence[View], generators: Sequence[torch.Generator]) -> Tensor:
        """A draw from each view's posterior, by its own generator: float32 `[B, C, h, w]`, on the device."""
        moments = [self.moments(view) for view in views]
        mean, std = (torch.stack([moment[key].float() for moment in moments]) for key in ("mean", "std"))
        eps = [torch.randn(mean.shape[1:], generator=generator) for generator in generators]
        return (mean + std * torch.stack(eps)).to(self.model.device)

    def moments(self, view: View) -> dict[str, Tensor]:
        """The view's mean and std, through the cache where the view can come again."""
        if self.cache is None or not view.cacheable:
            return self.encode(view)
        zoom = {} if view.zoom == WHOLE else {"zoom": [view.zoom.scale, view.zoom.at]}
        name = address(
            picture=view.example.content,
            background=view.settings.background,
            bucket=view.bucket,
            box=view.box,
            flip=view.flip,
            autoencoder=self.autoencoder,
            **zoom,
        )
        return self.cache(name, lambda: self.encode(view))

    @torch.no_grad()
    def encode(self, view: View) -> dict[str, Tensor]:
        """The view's posterior, mean and std `[C, h, w]` on the CPU."""
        # one picture at a time: neighbours in a batch would change the last bits
        mean, std = self.model.encode_moments(view.pixels()[None].to(self.model.device))
        return {"mean": mean[0].cpu(), "std": std.expand_as(mean)[0].cpu()}
