"""`python -m studio.bench_sizes FOLDER`: a model of Stable Diffusion 1.5's shapes with random weights, to measure with.

What a step takes does not depend on what weights say: `python -m studio.bench cost --model FOLDER` needs no download.
The words are the embedded model's, so the text encoder's table is smaller than the true one; all else is of full size.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from studio.pipelines.assets import model_path
from studio.pipelines.errors import UsageError


def unet() -> UNet2DConditionModel:
    """diffusers' defaults are Stable Diffusion 1's channels and blocks; 8 heads everywhere, texts of 768."""
    return UNet2DConditionModel(sample_size=64, attention_head_dim=8, cross_attention_dim=768)


def autoencoder() -> AutoencoderKL:
    """512 pixels, factor 8, four latent channels."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
        sample_size=512,
    )


def text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    """CLIP ViT-L/14's."""
    ids = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return CLIPTextModel(CLIPTextConfig(vocab_size=len(words), projection_dim=768, **shape, **ids))


def write(folder: Path, seed: int = 0) -> None:
    """Save the pipeline, about 4 GB. UsageError where the folder has something in it."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: give a new folder")
    torch.manual_seed(seed)
    words = CLIPTokenizer.from_pretrained(model_path("embedded") / "tokenizer", model_max_length=77)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    parts = (autoencoder(), text_encoder(words), words, unet(), scheduler)
    StableDiffusionPipeline(
        *parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)


def main(folder: tyro.conf.Positional[Path], /) -> int:
    """Write the model. folder: a new one."""
    try:
        write(folder)
    except UsageError as problem:
        print(f"bench_sizes: error: {problem}", file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main, prog="python -m studio.bench_sizes", description=__doc__))
