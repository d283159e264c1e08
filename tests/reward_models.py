"""Tiny random weights of the reward and matching encoders, with the tensor names and files of the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.encoders import PATCH, SIDE, SMALL, save, tiny_clip
from tests.models import clip_config, clip_tokenizer

Shapes = dict[str, tuple[int, ...]]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "cat", "dog", "red", "of", "on", "hat", "with"]
WIDTH, INNER, HIDDEN = 64, 128, 96  # of ImageReward's towers: one and two heads of 64
HPS = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIDE, "patch_size": PATCH, "width": 32, "layers": 2, "head_width": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 48, "heads": 16, "layers": 2},
}  # 16 heads in both towers, as ViT-H/14 has


def bert_tokenizer(folder: Path) -> Any:
    """BERT's word-piece tokenizer with a few words and all letters."""
    from transformers import BertTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    words = dict.fromkeys([*VOCABULARY, *letters])
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=512)
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_long_clip(folder: Path) -> Path:
    """A CLIPModel of 32 px that reads 77 tokens in four layers."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

    torch.manual_seed(5)
    text = clip_config(clip_tokenizer(folder), 32, 24).to_dict()
    text |= {"max_position_embeddings": 77, "num_hidden_layers": 4}
    vision = CLIPVisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH, projection_dim=24)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=24))
    return save(model, folder, image_processor_type="CLIPImageProcessor", size={"shortest_edge": SIDE}, crop_size=SIDE)


def bert_like(size: int, **settings: Any) -> dict[str, Any]:
    """A text tower's settings."""
    return {**SMALL, "vocab_size": size, "max_position_embeddings": 64, "encoder_hidden_size": 32, **settings}


def tiny_blip(folder: Path) -> Path:
    """A BlipForImageTextRetrieval of 32 px with its tokenizer."""
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipTextConfig, BlipVisionConfig

    torch.manual_seed(6)
    size = len(bert_tokenizer(folder))
    vision = BlipVisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH, initializer_range=0.02)
    text = BlipTextConfig(**bert_like(size, bos_token_id=2, sep_token_id=3))
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), image_text_hidden_size=24)
    return save(
        BlipForImageTextRetrieval(config), folder, image_processor_type="BlipImageProcessor",
        size={"height": SIDE, "width": SIDE}, resample=3,
    )  # fmt: skip


def tiny_blip2(folder: Path) -> Path:
    """A Blip2ForImageTextRetrieval of 32 px with four query tokens and its tokenizer."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2QFormerConfig, Blip2VisionConfig

    torch.manual_seed(7)
    size = len(bert_tokenizer(folder))
    vision = Blip2VisionConfig(**SMALL, image_size=SIDE, patch_size=PATCH, initializer_range=0.02)
    qformer = Blip2QFormerConfig(**bert_like(size, use_qformer_text_input=True))
    config = Blip2Config(
        vision_config=vision.to_dict(), qformer_config=qformer.to_dict(), num_query_tokens=4, image_text_hidden_size=24
    )
    model = Blip2ForImageTextRetrieval(config)
    nn.init.normal_(model.query_tokens)
    return save(
        model, folder, image_processor_type="BlipImageProcessor", size={"height": SIDE, "width": SIDE}, resample=3
    )


def hps_state() -> dict[str, Tensor]:
    """The tensors of an open_clip CLIP of HPS."""
    from open_clip.model import CLIP

    torch.manual_seed(8)
    state: dict[str, Tensor] = CLIP(**HPS).state_dict()
    return {name: tensor * 4 if tensor.dim() > 1 else tensor for name, tensor in state.items()}


def tiny_hps(folder: Path) -> Path:
    """HPSv2.1's file in .safetensors."""
    folder.mkdir(parents=True)
    save_file(hps_state(), folder / "HPS_v2.1_compressed.safetensors")
    return folder


def image_reward_state(words: int = 80) -> dict[str, Tensor]:
    """Tensors by ImageReward's names: timm's vision transformer, BLIP's BERT, five linear layers."""
    grid = (SIDE // PATCH) ** 2 + 1
    shapes: Shapes = {
        "blip.visual_encoder.cls_token": (1, 1, WIDTH),
        "blip.visual_encoder.pos_embed": (1, grid, WIDTH),
        "blip.visual_encoder.patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "blip.visual_encoder.patch_embed.proj.bias": (WIDTH,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (words, INNER),
        "blip.text_encoder.embeddings.position_embeddings.weight": (64, INNER),
        "blip.text_encoder.embeddings.LayerNorm": (INNER,),
        "blip.visual_encoder.norm": (WIDTH,),
        "blip.vision_proj": (8, WIDTH),
        "blip.text_proj": (8, INNER),
        **head_shapes("mlp.", INNER),
    }
    for i in range(2):
        block, layer = f"blip.visual_encoder.blocks.{i}", f"blip.text_encoder.encoder.layer.{i}"
        shapes |= {f"{block}.norm1": (WIDTH,), f"{block}.norm2": (WIDTH,), f"{block}.attn.qkv": (3 * WIDTH, WIDTH)}
        shapes |= {f"{block}.attn.proj": (WIDTH, WIDTH), f"{block}.mlp.fc1": (HIDDEN, WIDTH)}
        shapes |= {f"{block}.mlp.fc2": (WIDTH, HIDDEN), f"{layer}.intermediate.dense": (HIDDEN, INNER)}
        shapes |= {f"{layer}.output.dense": (INNER, HIDDEN), f"{layer}.output.LayerNorm": (INNER,)}
        for attention, source in ((f"{layer}.attention", INNER), (f"{layer}.crossattention", WIDTH)):
            shapes |= {f"{attention}.self.query": (INNER, INNER), f"{attention}.self.key": (INNER, source)}
            shapes |= {f"{attention}.self.value": (INNER, source), f"{attention}.output.dense": (INNER, INNER)}
            shapes |= {f"{attention}.output.LayerNorm": (INNER,)}
    torch.manual_seed(9)
    state = {name: tensor for part, shape in shapes.items() for name, tensor in filled(part, shape).items()}
    return {**state, "blip.text_encoder.embeddings.position_ids": torch.arange(64).unsqueeze(0)}


def filled(name: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A random tensor, or weight and bias of a layer whose name has neither."""
    if name.endswith((".weight", ".bias", "_token", "_embed")):
        return {name: torch.randn(shape) * 0.3}
    if len(shape) == 1:  # a normalisation
        return {f"{name}.weight": 1 + 0.2 * torch.randn(shape), f"{name}.bias": 0.2 * torch.randn(shape)}
    return {f"{name}.weight": torch.randn(shape) * shape[1] ** -0.5, f"{name}.bias": 0.2 * torch.randn(shape[:1])}


def head_shapes(prefix: str, inputs: int, widths: tuple[int, ...] = (40, 24, 16, 8, 1)) -> Shapes:
    """LAION's five linear layers, smaller."""
    pairs = zip((0, 2, 4, 6, 7), widths, (inputs, *widths), strict=False)
    return {f"{prefix}layers.{number}": (outputs, before) for number, outputs, before in pairs}


def head_state(inputs: int = 24, widths: tuple[int, ...] = (40, 24, 16, 8, 1)) -> dict[str, Tensor]:
    """LAION's ten tensors by their names."""
    torch.manual_seed(10)
    shapes = head_shapes("", inputs, widths)
    return {name: tensor for part, shape in shapes.items() for name, tensor in filled(part, shape).items()}


def tiny_image_reward(folder: Path) -> Path:
    """ImageReward's file in .safetensors, with the tokenizer beside it."""
    save_file(image_reward_state(len(bert_tokenizer(folder))), folder / "ImageReward.safetensors")
    return folder


def aesthetic(folder: Path) -> dict[str, str]:
    """The settings of the aesthetic scorer."""
    encoder, head = folder / "tiny_clip", folder / "head"
    if not head.is_dir():
        head.mkdir()
        save_file(head_state(), head / "aesthetic-model.safetensors")
    return {"encoder": str(encoder if encoder.is_dir() else tiny_clip(encoder)), "head": str(head)}
