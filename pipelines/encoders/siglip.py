"""SigLIP and SigLIP 2 of fixed resolution through transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from studio.pipelines.encoders import files
from studio.pipelines.encoders.base import Encoder, Loaded, shared
from studio.pipelines.encoders.clip import pooled
from studio.pipelines.encoders.framing import HALF, Framing


class Siglip(Encoder):
    """transformers' SiglipModel, which SigLIP 2's checkpoints of fixed resolution are too (not the NaFlex ones)."""

    preprocessing = "both sides to the encoder's side (antialiased bicubic), mean and std 0.5"

    def load(self, folder: Path) -> Loaded:
        """Network, framing and tokenizer out of a folder."""
        from transformers import SiglipModel

        files.family(folder, ("siglip",))
        model = files.pretrained(SiglipModel, folder, self.device, self.dtype)
        side = model.config.vision_config.image_size
        framing = files.framing(folder, Framing((side, side), None, *HALF), side)
        return Loaded(model, framing, files.tokenizer(folder), model.config.text_config.max_position_embeddings)

    def look(self, x: Tensor) -> Tensor:
        """Features `[B, D]` of prepared pictures."""
        return pooled(self.loaded.model.get_image_features(pixel_values=x))

    def read(self, tokens: dict[str, Tensor]) -> Tensor:
        """Features `[B, D]` of tokens; the padding counts, since it did in training."""
        return pooled(self.loaded.model.get_text_features(tokens["input_ids"]))

    def probability(self, cosine: Tensor) -> Tensor:
        """sigmoid(scale x cosine + bias), in 0..1, with the scale and bias of its training."""
        model = self.loaded.model
        return torch.sigmoid(cosine * model.logit_scale.float().exp() + model.logit_bias.float())


def siglip(source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Siglip:
    """The SigLIP in a folder or hub repository; nothing is read yet."""
    return shared(Siglip, source, revision, device, dtype)
