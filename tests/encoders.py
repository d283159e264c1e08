"""Factories of tiny image and text encoders of the true architectures: random, seeded, saved as the hub has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.models import LENGTH, clip_config, clip_tokenizer, t5_tokenizer

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE, PATCH = 32, 8


def save(model: Any, folder: Path, **preprocessor: Any) -> Path:
    """Weights, config and `preprocessor_config.json`. The weights are larger than at birth: pictures must differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return folder


def tiny_clip(folder: Path) -> Path:
    """A CLIPModel of 32 px with its tokenizer, which reads 16 tokens."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

    torch.manual_seed(2)  # its cosines are positive, as a trained one's
    tokenizer = clip_tokenizer(folder)
    vision = CLIPVisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH, projection_dim=24)
    text = clip_config(tokenizer, 32, 24)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24))
    return save(
        model, folder, image_processor_type="CLIPImageProcessor", size={"shortest_edge": SIDE}, crop_size=SIDE,
        resample=3, do_center_crop=True,
    )  # fmt: skip


def tiny_dino(folder: Path) -> Path:
    """The first DINO's ViTModel, 224 px in patches of 32."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(1)
    config = ViTConfig(**SMALL, image_size=224, patch_size=32)
    return save(
        ViTModel(config, add_pooling_layer=False), folder, image_processor_type="ViTImageProcessor", size=224,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip


def tiny_dinov2(folder: Path) -> Path:
    """A Dinov2Model of 32 px: resized to 40 px, cut to 32."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(2)
    config = Dinov2Config(**without("intermediate_size"), mlp_ratio=2, image_size=SIDE, patch_size=PATCH)
    return save(
        Dinov2Model(config), folder, image_processor_type="BitImageProcessor", size={"shortest_edge": 40},
        crop_size={"height": SIDE, "width": SIDE}, resample=3, do_center_crop=True,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip


def tiny_registers(folder: Path) -> Path:
    """A Dinov2WithRegistersModel of 32 px with four register tokens."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(3)
    config = Dinov2WithRegistersConfig(
        **without("intermediate_size"), mlp_ratio=2, image_size=SIDE, patch_size=PATCH, num_register_tokens=4
    )
    return save(
        Dinov2WithRegistersModel(config), folder, image_processor_type="BitImageProcessor",
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, resample=3, do_center_crop=True,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip


def tiny_dinov3(folder: Path) -> Path:
    """A DINOv3ViTModel of 32 px with three register tokens."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(4)
    config = DINOv3ViTConfig(**SMALL, image_size=SIDE, patch_size=PATCH, num_register_tokens=3)
    return save(
        DINOv3ViTModel(config), folder, image_processor_type="DINOv3ViTImageProcessor",
        size={"height": SIDE, "width": SIDE}, resample=2,
    )  # fmt: skip


def tiny_siglip(folder: Path) -> Path:
    """A SiglipModel of 32 px with a tokenizer of letters, which reads 16 tokens."""
    from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig

    torch.manual_seed(5)
    tokenizer = t5_tokenizer()
    tokenizer.save_pretrained(folder)
    vision = SiglipVisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH)
    text = SiglipTextConfig(**SMALL, vocab_size=32, max_position_embeddings=LENGTH, pad_token_id=0, projection_size=32)
    model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-1.0)
    return save(
        model, folder, image_processor_type="SiglipImageProcessor", size={"height": SIDE, "width": SIDE}, resample=3,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip


def without(key: str) -> dict[str, int]:
    """SMALL less one setting."""
    return {name: value for name, value in SMALL.items() if name != key}


FOLDERS = {
    "clip": tiny_clip,
    "dino": tiny_dino,
    "dinov2": tiny_dinov2,
    "registers": tiny_registers,
    "dinov3": tiny_dinov3,
    "siglip": tiny_siglip,
}
