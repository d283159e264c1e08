"""TrOCR through transformers: the line of text in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.pipelines.encoders import files
from studio.pipelines.encoders.base import Encoder, Loaded, batches, shared
from studio.pipelines.encoders.framing import HALF, Framing

LONGEST = 32  # tokens that are read of a picture
BATCH = 8


class Ocr(Encoder):
    """An image encoder and a text decoder that writes down what it sees, greedily."""

    preprocessing = "both sides to the encoder's side (antialiased bilinear), mean and deviation 0.5"

    def load(self, folder: Path) -> Loaded:
        """Network, framing and tokenizer out of a folder."""
        files.family(folder, ("vision-encoder-decoder",))
        model = files.pretrained(reading(), folder, self.device, self.dtype)
        side = model.config.encoder.image_size
        framing = files.framing(folder, Framing((side, side), None, *HALF, mode="bilinear"), side)
        return Loaded(model, framing, files.tokenizer(folder), LONGEST)

    def look(self, x: Tensor) -> Tensor:
        """The image encoder's states of prepared pictures, `[B, N, D]`."""
        states: Tensor = self.loaded.model.encoder(pixel_values=x).last_hidden_state
        return states

    @torch.no_grad()
    def written(self, pictures: Sequence[Tensor]) -> list[str]:
        """What is read in each picture `[3, h, w]` in 0..1. Raises ModelError."""
        found: list[str] = []
        for chunk in batches(pictures, BATCH):
            x = self.loaded.framing([picture.detach().to(self.device) for picture in chunk]).to(self.dtype)
            ids = self.loaded.model.generate(pixel_values=x, max_new_tokens=LONGEST, num_beams=1, do_sample=False)
            found += self.loaded.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return found


def reading() -> Any:
    """transformers' VisionEncoderDecoderModel without the pooling layer, which TrOCR's files do not have."""
    from transformers import AutoModel, VisionEncoderDecoderModel

    class Reading(VisionEncoderDecoderModel):
        """Encoder and decoder by their configs."""

        def __init__(self, config: Any, encoder: Any = None, decoder: Any = None) -> None:
            super().__init__(config, encoder or AutoModel.from_config(config.encoder, add_pooling_layer=False), decoder)

    return Reading


def ocr(source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Ocr:
    """The TrOCR in a folder or hub repository; nothing is read yet."""
    return shared(Ocr, source, revision, device, dtype)
