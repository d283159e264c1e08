"""Tiny random weights of a detector and a reader of text, of the true architectures, saved as the hub has them."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.encoders import PATCH, SIDE, SMALL, save
from tests.models import t5_tokenizer

CLASSES = ("cat", "dog", "hot dog")


def tiny_yolos(folder: Path) -> Path:
    """A YolosForObjectDetection of 32 px with six boxes and three classes."""
    from transformers import YolosConfig, YolosForObjectDetection

    torch.manual_seed(11)
    names = dict(enumerate(CLASSES))
    config = YolosConfig(
        **SMALL, image_size=[SIDE, SIDE], patch_size=PATCH, num_detection_tokens=6, use_mid_position_embeddings=False,
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    return save(
        YolosForObjectDetection(config), folder, image_processor_type="YolosImageProcessor", do_normalize=True,
        size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}, image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip


def tiny_trocr(folder: Path) -> Path:
    """A VisionEncoderDecoderModel of 32 px without a pooling layer, as TrOCR's files are, that writes letters."""
    from transformers import TrOCRConfig, TrOCRForCausalLM, VisionEncoderDecoderModel, ViTConfig, ViTModel

    torch.manual_seed(12)
    tokenizer = t5_tokenizer()
    tokenizer.save_pretrained(folder)
    encoder = ViTModel(ViTConfig(**SMALL, image_size=SIDE, patch_size=PATCH), add_pooling_layer=False)
    decoder = TrOCRForCausalLM(
        TrOCRConfig(
            vocab_size=len(tokenizer), d_model=32, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=64,
            max_position_embeddings=40, cross_attention_hidden_size=32, pad_token_id=0, bos_token_id=0, eos_token_id=1,
            decoder_start_token_id=0,
        )
    )  # fmt: skip
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.pad_token_id, config.eos_token_id, config.decoder_start_token_id = 0, 1, 0
    return save(
        model, folder, image_processor_type="ViTImageProcessor", size={"height": SIDE, "width": SIDE}, resample=2,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
