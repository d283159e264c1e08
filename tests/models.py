"""Factories of tiny models of the true architectures: random, seeded, offline; and `backbone`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from studio.pipelines import assets
from studio.pipelines import backbone as backbones
from studio.pipelines.protocols import Backbone

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MERGES = (
    "a n",
    "i n",
    "t h",
    "th e</w>",
    "o n</w>",
    "c a",
    "ca t</w>",
    "d o",
    "do g</w>",
    "r e",
    "re d</w>",
    "o f</w>",
)
LENGTH = 16


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """A real byte-level CLIP tokenizer with a dozen merges: any text gives ids, cut off at 16."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *(merge.replace(" ", "") for merge in MERGES),
        BOS,
        EOS,
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]), encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": BOS,
        "eos_token": EOS,
    }
    settings |= {"pad_token": EOS, "unk_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of letters in T5's manner: pad 0, end of text 1."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz "]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **names)


def clip_config(tokenizer: CLIPTokenizer, width: int, projection: int | None = None) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def autoencoder(channels: int = 4, **settings: Any) -> AutoencoderKL:
    """32 px pictures, factor 2, `channels` latent channels."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        **settings,
    )


def unet(width: int = 32) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=4,
        cross_attention_dim=width,
    )


def tiny_sd(folder: Path, prediction: str = "epsilon", **schedule: Any) -> Path:
    """Save a random StableDiffusionPipeline of 32 px; v-prediction has a zero-terminal-SNR schedule."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder / "tokenizer")
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    }
    settings |= {"prediction_type": prediction, "steps_offset": 1}
    if prediction == "v_prediction":
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    pipe = StableDiffusionPipeline(
        vae=autoencoder(scaling_factor=0.5),
        text_encoder=CLIPTextModel(clip_config(tokenizer, 32)),
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=DDIMScheduler(**settings | schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def tiny_sd3(folder: Path, t5: bool = True) -> Path:
    """Save a random StableDiffusion3Pipeline of 32 px with two CLIP encoders and, if wanted, a T5."""
    torch.manual_seed(0)
    tokenizers = [clip_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    clips = [CLIPTextModelWithProjection(clip_config(tokenizers[0], width)) for width in (16, 24)]
    small = {"d_model": 48, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    pipe = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=16,
            pooled_projection_dim=40,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16, scaling_factor=0.6, shift_factor=0.06),
        text_encoder=clips[0],
        tokenizer=tokenizers[0],
        text_encoder_2=clips[1],
        tokenizer_2=tokenizers[1],
        text_encoder_3=T5EncoderModel(T5Config(vocab_size=32, **small)) if t5 else None,
        tokenizer_3=t5_tokenizer() if t5 else None,
    )
    pipe.save_pretrained(folder)
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "tiny-sd-eps": tiny_sd,
    "tiny-sd-v": partial(tiny_sd, prediction="v_prediction"),
    "tiny-sd3": tiny_sd3,
}
BACKBONES = ("toy", *FOLDERS, "embedded")


def backbone(name: str, folder: Path, **options: Any) -> Backbone:
    """The model `name` of BACKBONES, freshly loaded; its files are made once below `folder` and reused.

    Skips the test while the embedded base has not been built.
    """
    if name == "embedded" and not (assets.model_path(name) / "model_index.json").exists():
        import pytest

        pytest.skip("the embedded base is not built yet")
    if name in FOLDERS and not (folder / name / "model_index.json").exists():
        FOLDERS[name](folder / name)
    return backbones.load(str(folder / name) if name in FOLDERS else name, **options)
