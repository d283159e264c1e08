"""Captioners of the true architectures, tiny and random, saved in transformers' layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BartConfig,
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    OPTConfig,
    PreTrainedTokenizerFast,
)

WORDS = [
    *("a", "an", "the", "dog", "cat", "fox", "owl", "red", "blue", "green", "small", "big"),
    *("sits", "runs", "sleeps", "on", "in", "under", "beach", "snow", "grass", "with"),
]
SIDE = 32


def scattered(model: nn.Module) -> nn.Module:
    """The model with weights large enough for its words to depend on the picture."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5, generator=rng)
    return model.eval()


def words(special: list[str], **names: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with special tokens first; the end of text goes after."""
    known = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token=special[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def blip(folder: Path) -> Path:
    """A random BlipForConditionalGeneration for 32 px."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate([*special, *WORDS])})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "encoder_hidden_size": 16, "projection_dim": 16, "bos_token_id": 5}
    text |= {"eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 64}
    vision = {"image_size": SIDE, "patch_size": 8, "projection_dim": 16}
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=size | text, vision_config=size | vision, projection_dim=16, image_text_hidden_size=16)
    )
    scattered(model).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer).save_pretrained(folder)
    return folder


def blip2(folder: Path) -> Path:
    """A random Blip2ForConditionalGeneration for 32 px, with an OPT."""
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = words(["<s>", "<pad>", "</s>", "<unk>"], **names)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    processor = Blip2Processor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer, num_query_tokens=4)
    text = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, word_embed_proj_dim=16, bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = Blip2Config(
        vision_config=size | {"image_size": SIDE, "patch_size": 8},
        qformer_config=size | {"vocab_size": 30, "encoder_hidden_size": 16},
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=len(tokenizer) - 1,
    )
    scattered(Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def florence2(folder: Path) -> Path:
    """A random Florence2ForConditionalGeneration for 64 px: four patches and their mean."""
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
    tokenizer = words(special, **names, extra_special_tokens={"image_token": "<image>"})
    pictures = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5)
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=128,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    vision = {"depths": (1, 1, 1, 1), "embed_dim": (8, 16, 16, 16), "num_heads": (1, 2, 2, 2), "window_size": 4}
    config = Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision | {"num_groups": (1, 2, 2, 2), "projection_dim": 16},
        image_token_id=4,
    )
    scattered(Florence2ForConditionalGeneration(config)).save_pretrained(folder)
    Florence2Processor(pictures, tokenizer).save_pretrained(folder)
    return folder


MADE: dict[str, Callable[[Path], Path]] = {"blip": blip, "blip2": blip2, "florence2": florence2}
