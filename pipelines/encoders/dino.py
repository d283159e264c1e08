"""DINO (ViT), DINOv2 and DINOv3 through transformers: features of a picture and of its patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.pipelines.encoders import files
from studio.pipelines.encoders.base import Encoder, Loaded, shared
from studio.pipelines.encoders.framing import IMAGENET, Framing

CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "vit": "ViTModel",
}
CROPPED = Framing(256, 224, *IMAGENET)
WHOLE = Framing((224, 224), None, *IMAGENET, mode="bilinear")


class Dino(Encoder):
    """A picture's feature is its class token after the last norm."""

    preprocessing = f"as its preprocessor_config.json says; else DINO, DINOv2: {CROPPED}; DINOv3: {WHOLE}"

    def load(self, folder: Path) -> Loaded:
        """Network and framing out of a folder."""
        import transformers

        family = files.family(folder, tuple(CLASSES))
        # the first DINO's checkpoints have no pooling layer, and its protocol is not in their config
        options: dict[str, Any] = {"add_pooling_layer": False} if family == "vit" else {}
        kind = getattr(transformers, CLASSES[family])
        model = files.pretrained(kind, folder, self.device, self.dtype, **options)
        if family != "vit":
            return Loaded(model, files.framing(folder, WHOLE if family == "dinov3_vit" else CROPPED))
        framing = files.framing(folder, CROPPED, model.config.image_size)
        return Loaded(model, replace(framing, size=CROPPED.size, crop=CROPPED.crop, mode=CROPPED.mode))

    def look(self, x: Tensor) -> Tensor:
        """Class tokens `[B, D]` of prepared pictures."""
        return self.loaded.model(x).last_hidden_state[:, 0]

    def patches(self, x: Tensor) -> Tensor:
        """`[B, N, D]`, row by row, without class and register tokens."""
        model = self.loaded.model
        return model(x).last_hidden_state[:, 1 + getattr(model.config, "num_register_tokens", 0) :]


def dino(source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Dino:
    """The DINO in a folder or hub repository; nothing is read yet."""
    return shared(Dino, source, revision, device, dtype)
