"""What the model families share, frozen parts and latents; and `load`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from studio.pipelines import checkpoints
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Adapter, Backbone, Cond, Prediction
from studio.pipelines.weights import cast_frozen, digest, frozen_state


def load(model: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
    """The model called `model`: "embedded", "toy", a folder, a single `.safetensors` file or a hub id.

    Frozen parts come in `dtype`. Raises UsageError for what is no model, ModelError when files of one are missing,
    damaged, unreachable or of no known family.
    """
    family, source = checkpoints.find(model)
    return family.load(source, torch.device(device), dtype)


class Frozen(ABC):
    """A network, its schedule and its text encoders, all frozen and in eval mode. A family adds the rest."""

    net_name: str  # what stock pipelines call the network
    pixels: int
    multiple: int
    channels: int  # of the latents
    factor: int  # pixels per latent, along a side
    prediction: Prediction

    def __init__(
        self, net: nn.Module, scheduler: Any, text_encoders: dict[str, nn.Module], tokenizers: dict[str, Any]
    ) -> None:
        self.net, self.scheduler, self.text_encoders, self.tokenizers = (
            net,
            scheduler,
            text_encoders,
            tokenizers,
        )
        self.adapter: Adapter | None = None
        self._digests: dict[str, str] = {}
        for module in self.modules().values():
            module.requires_grad_(False).eval()
        first = next(net.parameters())
        self.device, self.dtype = first.device, first.dtype

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Cond: ...

    @abstractmethod
    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor: ...

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor: ...

    @abstractmethod
    def vae_fingerprint(self) -> str: ...

    def modules(self) -> dict[str, nn.Module]:
        """Every network of the model, by its stock pipeline name."""
        return {self.net_name: self.net, **self.text_encoders}

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of one picture's latents. Raises UsageError for odd sides."""
        if height % self.multiple or width % self.multiple:
            raise UsageError(f"picture size {width}x{height}: both sides must be divisible by {self.multiple}")
        return self.channels, height // self.factor, width // self.factor

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents `[B, C, h, w]`, float32, drawn from the posterior of pictures `[B, 3, H, W]` in -1..1.

        The draw is made on the CPU from `generator`, so it is the same on every device.
        """
        mean, std = self.encode_moments(images)
        return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's output, float32 `[B, C, h, w]`, after telling the adapter the time. t: `[B]`."""
        if self.adapter is not None:
            self.adapter.at(t)
        cast = cond.map(lambda value: value.to(self.dtype) if value.is_floating_point() else value)
        return self.forward(x.to(self.dtype), t, cast).float()

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move everything to `device`, and the frozen parts to `dtype`; parameters that learn keep theirs."""
        self.device = torch.device(device)
        for module in self.modules().values():
            module.to(self.device)
        if dtype is not None and dtype != self.dtype:
            for module in self.modules().values():
                cast_frozen(module, dtype)
            self.dtype = dtype
            self._digests.clear()
        return self

    def fingerprint(self) -> str:
        """sha256 over the frozen weights of all parts; the same with and without an adapter."""
        parts = [self._digest(name) for name in sorted(self.modules())]
        # diffusers' own notes among the settings come in another order in every process
        schedule = {key: value for key, value in self.scheduler.config.items() if not key.startswith("_")}
        return digest({}, [*parts, self.vae_fingerprint(), schedule])

    def text_fingerprint(self) -> str:
        """sha256 of what decides the text embeddings."""
        return digest({}, [self._digest(name) for name in sorted(self.text_encoders)])

    def _digest(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = digest(frozen_state(self.modules()[name]))
        return self._digests[name]


class Latent(Frozen):
    """A family with an AutoencoderKL, built around a stock diffusers pipeline, which stays reachable."""

    def __init__(self, pipe: Any) -> None:
        self._class, self._components = type(pipe), dict(pipe.components)
        self.vae = pipe.vae
        super().__init__(
            self._components[self.net_name],
            pipe.scheduler,
            {k: v for k, v in self._components.items() if k.startswith("text_encoder") and v is not None},
            {k: v for k, v in self._components.items() if k.startswith("tokenizer") and v is not None},
        )
        self.channels, self.factor = (
            pipe.vae.config.latent_channels,
            2 ** (len(pipe.vae.config.block_out_channels) - 1),
        )

    def modules(self) -> dict[str, nn.Module]:
        """Every network of the model, by its stock pipeline name."""
        return {**super().modules(), "vae": self.vae}

    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `[B, C, h, w]`, of the scaled latents of pictures `[B, 3, H, W]`.

        Pictures are in -1..1. Scaling: (z - shift_factor) * scaling_factor, or, where the config has them,
        (z - latents_mean) * scaling_factor / latents_std.
        """
        with self._vae() as dtype:
            posterior = self.vae.encode(images.to(self.device, dtype)).latent_dist
        shift, scale = self._scaling()
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]`, float32, about -1..1, of scaled latents `[B, C, h, w]`."""
        shift, scale = self._scaling()
        with self._vae() as dtype:
            return self.vae.decode((latents.float() / scale + shift).to(dtype)).sample.float()

    def vae_fingerprint(self) -> str:
        """sha256 of what decides the latents: the autoencoder's weights and scaling."""
        shift, scale = self._scaling()
        return digest({"shift": torch.as_tensor(shift), "scale": torch.as_tensor(scale)}, self._digest("vae"))

    def pipeline(self) -> Any:
        """A stock diffusers pipeline around the same modules, with its own copy of the scheduler."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        parts = {**self.text_encoders, **self.tokenizers, self.net_name: self.net, "vae": self.vae}
        pipe = self._class(**(self._components | parts | {"scheduler": scheduler}), **self.pipeline_options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    pipeline_options: dict[str, Any] = {}

    def _scaling(self) -> tuple[Tensor | float, Tensor | float]:
        config = self.vae.config
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return config.get("shift_factor") or 0.0, config.scaling_factor
        mean, std = (
            torch.tensor(config[key], device=self.device).view(1, -1, 1, 1) for key in ("latents_mean", "latents_std")
        )
        return mean, config.scaling_factor / std

    @contextmanager
    def _vae(self) -> Iterator[torch.dtype]:
        """The autoencoder's type for one call: float32 where its activations overflow float16 (SDXL's do)."""
        upcast = self.dtype == torch.float16 and self.vae.config.get("force_upcast", False)
        if upcast:
            self.vae.to(torch.float32)
        try:
            yield torch.float32 if upcast else self.dtype
        finally:
            if upcast:
                self.vae.to(self.dtype)


def tokenize(tokenizer: Any, prompts: Sequence[str], length: int) -> Any:
    """Ids `[B, length]` and their mask, padded and cut off as stock pipelines do."""
    return tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
