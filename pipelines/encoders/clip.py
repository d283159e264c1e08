"""CLIP, image and text, through transformers: OpenAI's, LAION's and what was fine-tuned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.pipelines.encoders import files
from studio.pipelines.encoders.base import Encoder, Loaded, shared
from studio.pipelines.encoders.framing import OPENAI, Framing

BASE = "openai/clip-vit-base-patch32"
PREPROCESSING = "short side to the encoder's side (antialiased bicubic), centre square, CLIP mean and std"


class Clip(Encoder):
    """transformers' CLIPModel."""

    preprocessing = PREPROCESSING

    def load(self, folder: Path) -> Loaded:
        """Network, framing and tokenizer out of a folder."""
        from transformers import CLIPModel

        files.family(folder, ("clip",))
        model = files.pretrained(CLIPModel, folder, self.device, self.dtype)
        side = model.config.vision_config.image_size
        framing = files.framing(folder, Framing(side, side, *OPENAI), side)
        return Loaded(model, framing, files.tokenizer(folder), model.config.text_config.max_position_embeddings)

    def look(self, x: Tensor) -> Tensor:
        """Projected features `[B, D]` of prepared pictures."""
        return pooled(self.loaded.model.get_image_features(pixel_values=x))

    def read(self, tokens: dict[str, Tensor]) -> Tensor:
        """Projected features `[B, D]` of tokens."""
        model = self.loaded.model
        return pooled(model.get_text_features(tokens["input_ids"], attention_mask=tokens.get("attention_mask")))


def pooled(found: Any) -> Tensor:
    """The features; transformers 5 wraps them in an output object."""
    return found if isinstance(found, Tensor) else found.pooler_output


def clip(source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Clip:
    """The CLIP in a folder or hub repository; nothing is read yet."""
    return shared(Clip, source, revision, device, dtype)
