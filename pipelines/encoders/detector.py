"""Object detectors through transformers (YOLOS, DETR and their kin): the log-odds of a class for every box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from studio.pipelines import model_files
from studio.pipelines.encoders import files
from studio.pipelines.encoders.base import Encoder, Loaded, batches, shared
from studio.pipelines.encoders.framing import IMAGENET, Framing
from studio.pipelines.errors import UsageError
from studio.pipelines.rewards_terms import nearest

USUAL = Framing(512, None, *IMAGENET, mode="bilinear")
BATCH = 8


class Detector(Encoder):
    """Its boxes have logits of classes, of which one more than there are names says "nothing here"."""

    preprocessing = f"as its preprocessor_config.json says; else {USUAL}"

    def load(self, folder: Path) -> Loaded:
        """Network and framing out of a folder."""
        from transformers import AutoModelForObjectDetection

        model = files.pretrained(AutoModelForObjectDetection, folder, self.device, self.dtype)
        file = folder / "preprocessor_config.json"
        settings = model_files.read_json(file) if file.is_file() else {}
        framing, plain = USUAL.read(settings), settings.get("do_normalize") is False
        return Loaded(model, replace(framing, mean=(0.0,) * 3, std=(1.0,) * 3) if plain else framing)

    def look(self, x: Tensor) -> Tensor:
        """Logits of all classes in all boxes, `[B, Q, C]`."""
        logits: Tensor = self.loaded.model(pixel_values=x).logits
        return logits

    def odds(self, pictures: Sequence[Tensor], label: str) -> Tensor:
        """`[B, Q]` float32: log(p / (1 - p)) of a class in every box. Raises ModelError, UsageError."""
        at = self.position(label)
        return torch.cat([self.of(self.look(self.ready(chunk)).float(), at) for chunk in batches(pictures, BATCH)])

    def ready(self, pictures: Sequence[Tensor]) -> Tensor:
        """`[B, 3, h, w]` as the network takes it."""
        return self.loaded.framing([picture.to(self.device) for picture in pictures]).to(self.dtype)

    def of(self, logits: Tensor, at: int) -> Tensor:
        """The log-odds of the class `at`: against all others of a softmax, or the logit of a sigmoid."""
        if logits.shape[-1] != self.loaded.model.config.num_labels + 1:
            return logits[..., at]
        others = torch.cat([logits[..., :at], logits[..., at + 1 :]], -1)
        return logits[..., at] - others.logsumexp(-1)

    def position(self, label: str) -> int:
        """The number of a class by its name. Raises UsageError with the nearest name."""
        names = {str(name).lower(): int(number) for number, name in self.loaded.model.config.id2label.items()}
        if label.lower() not in names:
            some = ", ".join(list(names)[:10])
            raise UsageError(f"{self.id} knows no '{label}'{nearest(label.lower(), names)} (it knows {some}, ...)")
        return names[label.lower()]


def detector(source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Detector:
    """The detector in a folder or hub repository; nothing is read yet."""
    return shared(Detector, source, revision, device, dtype)
