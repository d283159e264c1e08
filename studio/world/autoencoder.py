"""The embedded autoencoder: diffusers' AutoencoderKL, factor 4, eight latent channels, trained on scenes.

Most of a scene is flat ground, so three steps in four see crops around the drawings, a quarter of the area: measured
after 90 s on one core, 22.1 dB against 16.6 dB with whole scenes from the start (assets/decisions/0001).
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from studio.precision import halved
from studio.world import scenes, sprites
from studio.world.fit import Fit

CHANNELS, CROPS = 8, 0.75  # latent channels; share of the steps that see crops
POSTERIOR_LOGVAR = -5.0  # fixed width of the posterior: the decoder learns to bear what a denoiser leaves over
HELD_OUT = 900_000_000  # scene seeds from here on are never trained on


def network(pixels: int = 64) -> AutoencoderKL:
    """Untrained autoencoder for `pixels` px pictures, latents `[B, 8, pixels/4, pixels/4]`."""
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=pixels,
        mid_block_add_attention=False,  # crops and whole pictures then mean the same to it
    )
    with torch.no_grad():
        vae.quant_conv.weight[CHANNELS:].zero_()
        vae.quant_conv.bias[CHANNELS:].fill_(POSTERIOR_LOGVAR)
    return vae


def batch(draw: scenes.Draw, folder: Path, first: int, count: int, pixels: int) -> Tensor:
    """Pictures of the scenes `first` .. `first + count - 1`, `[count, 3, pixels, pixels]` in -1..1."""
    stack = np.stack([draw(seed).render(folder, pixels) for seed in range(first, first + count)])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def crops(draw: scenes.Draw, folder: Path, first: int, count: int, pixels: int) -> Tensor:
    """Windows of half the side around a drawing of each scene, `[count, 3, pixels/2, pixels/2]` in -1..1."""
    windows, side = [], pixels // 2
    for seed, picture in zip(range(first, first + count), batch(draw, folder, first, count, pixels), strict=True):
        rng = Random(seed)
        placed = rng.choice(draw(seed).objects)
        middle = (placed.y * pixels, placed.x * pixels)
        shift = placed.extent * pixels * 0.3
        top, left = (min(max(int(c + rng.uniform(-shift, shift)) - side // 2, 0), side) // 4 * 4 for c in middle)
        windows.append(picture[:, top : top + side, left : left + side])
    return torch.stack(windows)


def distance(y: Tensor, x: Tensor) -> Tensor:
    """L1 on pixels and on pixel differences (edges), and the squared error that PSNR counts."""
    error = (y - x).float()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 0.5 * edges + 4 * error.square().mean()


def noisy(vae: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latent means of `x` and the decoding of a draw around them."""
    posterior = vae.encode(x).latent_dist
    mean = posterior.mean
    return mean, vae.decode(mean + torch.randn_like(mean) * posterior.std.detach()).sample


def train(work: Path, tier: str, images: int, device: torch.device, pixels: int = 64) -> AutoencoderKL:
    """Train (or go on training) on `images` scenes and return the autoencoder with its scaling factor set."""
    torch.manual_seed(11)
    draw, folder = scenes.Draw(sprites.load(work, tier)), work / f"sprites-{tier}"
    vae = network(pixels).to(device, memory_format=torch.channels_last)
    size = 8
    fit = Fit({"vae": vae}, work / "autoencoder", images // size, lr=1e-3, warmup=100, ema=0.995)

    def loss(step: int) -> Tensor:
        view, count = (crops, size) if step < CROPS * fit.steps else (batch, size // 2)
        x = view(draw, folder, 10_000_000 + step * size, count, pixels)
        x = x.to(device, memory_format=torch.channels_last)
        with halved(device):
            mean, y = noisy(vae, x)
        return distance(y, x) + 1e-4 * mean.float().square().mean()

    fit.run(loss)
    fit.use_average()
    with torch.no_grad():
        vae.quant_conv.weight[CHANNELS:].zero_()
        vae.quant_conv.bias[CHANNELS:].fill_(POSTERIOR_LOGVAR)
        sample = batch(draw, folder, HELD_OUT, 512, pixels).to(device)
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in sample.split(64)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    return vae.eval()


@torch.no_grad()
def psnr(vae: AutoencoderKL, draw: scenes.Draw, folder: Path, count: int = 256) -> float:
    """Mean peak signal-to-noise ratio in dB on `count` held-out scenes."""
    values = []
    for first in range(HELD_OUT, HELD_OUT + count, 32):
        x = batch(draw, folder, first, 32, vae.config.sample_size).to(vae.device)
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        error = F.mse_loss(y, x, reduction="none").mean((1, 2, 3)) / 4
        values.append(-10 * error.log10())
    return float(torch.cat(values).mean())
