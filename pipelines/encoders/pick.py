"""PickScore's CLIP: it was published without a tokenizer, and its number is scaled as CLIP's logits are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from studio.pipelines.encoders import files
from studio.pipelines.encoders.base import Loaded, shared
from studio.pipelines.encoders.clip import Clip
from studio.pipelines.encoders.framing import OPENAI, Framing
from studio.pipelines.encoders.single import texts

BASE = "yuvalkirstain/PickScore_v1"
TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class Pick(Clip):
    """transformers' CLIPModel, fine-tuned on people's choices between two pictures."""

    def load(self, folder: Path) -> Loaded:
        """Network, framing and tokenizer out of a folder, the tokenizer from where its training had it if need be."""
        from transformers import CLIPModel

        files.family(folder, ("clip",))
        model = files.pretrained(CLIPModel, folder, self.device, self.dtype)
        side, length = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings
        framing = files.framing(folder, Framing(side, side, *OPENAI), side)
        return Loaded(model, framing, files.tokenizer(texts(folder, TOKENIZER)), length)

    def logit(self, cosine: Tensor) -> Tensor:
        """exp(logit_scale) x cosine."""
        return self.loaded.model.logit_scale.float().exp() * cosine


def pick(source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Pick:
    """The PickScore in a folder or hub repository; nothing is read yet."""
    return shared(Pick, source, revision, device, dtype)
