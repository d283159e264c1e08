"""The embedded judges: an image-text model and an attribute classifier that know the studio's own small world.

They were trained on its scenes only (`python -m studio.world judges`) and share nothing with the embedded base model
but the byte-pair vocabulary. Meaningful for pictures of that world, never for photographs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from studio.pipelines.assets import assets_folder
from studio.pipelines.encoders.base import Encoder, Loaded, shared
from studio.pipelines.encoders.framing import HALF, Framing
from studio.pipelines.errors import ModelError

PIXELS = 64
FRAMING = Framing((PIXELS, PIXELS), None, *HALF, mode="bilinear")
Kind = TypeVar("Kind", bound="Sight")


class Block(nn.Module):
    """Residual block of two 3x3 convolutions, halving the picture."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class Attributes(nn.Module):
    """Pictures `[B, 3, 64, 64]` in -1..1 -> logits `[B, answers]` per attribute (object, colour, style, ...).

    The heads read the means of the left half, the right half and the whole of the last feature map: where something is
    matters to the half, not to the pixel.
    """

    def __init__(self, answers: dict[str, list[str]], widths: tuple[int, ...] = (40, 80, 160, 288)) -> None:
        super().__init__()
        self.answers = answers
        stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        pairs = zip(widths, widths[1:], strict=False)
        self.body = nn.Sequential(stem, *(Block(before, after) for before, after in pairs))
        self.heads = nn.ModuleDict({name: nn.Linear(3 * widths[-1], len(words)) for name, words in answers.items()})

    def features(self, x: Tensor) -> Tensor:
        """What the heads read, `[B, 864]`."""
        found = self.body(x)
        middle = found.shape[-1] // 2
        return torch.cat([part.mean((2, 3)) for part in (found[..., :middle], found[..., middle:], found)], 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.features(x)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, x: Tensor) -> list[dict[str, str]]:
        """The most likely answer to every attribute, one dict per picture."""
        best = {name: logits.argmax(-1).tolist() for name, logits in self(x).items()}
        return [{name: self.answers[name][best[name][i]] for name in best} for i in range(len(x))]


def new_clip(config: dict[str, Any]) -> CLIP:
    """An untrained open_clip model of a configuration in open_clip's own words."""
    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    return CLIP(config["embed_dim"], vision, text)


@dataclass
class Judges:
    """Both judges, float32, in evaluation mode. All pictures are `[B, 3, H, W]` in -1..1, resized to 64 px."""

    clip: CLIP
    tokenizer: CLIPTokenizer
    attributes: Attributes

    @torch.no_grad()
    def image_features(self, x: Tensor) -> Tensor:
        """Unit image embeddings `[B, D]` of the image-text model."""
        return F.normalize(self.clip.encode_image(fitted(x)), dim=-1)

    @torch.no_grad()
    def attribute_features(self, x: Tensor) -> Tensor:
        """Unit features `[B, 864]` of the attribute classifier."""
        return F.normalize(self.attributes.features(fitted(x)), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit text embeddings `[B, D]`."""
        return F.normalize(self.clip.encode_text(tokens(self.tokenizer, prompts)), dim=-1)

    def read(self, x: Tensor) -> list[dict[str, str]]:
        """The attribute classifier's answers, one dict per picture."""
        return self.attributes.read(fitted(x))


def fitted(x: Tensor) -> Tensor:
    """Pictures at the judges' size."""
    size = (PIXELS, PIXELS)
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", antialias=True)


def tokens(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Token ids `[B, L]`."""
    length = tokenizer.model_max_length
    return tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids


def load(folder: Path | None = None) -> Judges:
    """The judges in `folder`, by default those that come with the studio.

    Raises ModelError when they are not there.
    """
    folder = folder or assets_folder() / "judges"
    if not (folder / "config.json").is_file():
        raise absent(folder)
    config = json.loads((folder / "config.json").read_text())
    attributes, clip = Attributes(config["answers"]), new_clip(config["clip"])
    for name, net in (("attributes", attributes), ("clip", clip)):
        try:
            net.load_state_dict(load_file(folder / f"{name}.safetensors"))
        except (RuntimeError, SafetensorError, OSError):
            raise ModelError(
                f"{folder / name}.safetensors does not fit its config.json: make the judges again"
            ) from None
        net.float().eval().requires_grad_(False)
    return Judges(clip, CLIPTokenizer.from_pretrained(folder), attributes)


class Sight(Encoder):
    """The image-text judge as an encoder, float32 everywhere."""

    preprocessing = str(FRAMING)

    def __init__(self, source: str, revision: str, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(source, revision, device, torch.float32)
        self.id = f"embedded judges {revision}"

    @classmethod
    def of(cls: type[Kind], judges: Judges) -> Kind:
        """Around judges that are loaded already."""
        device = next(judges.clip.parameters()).device
        found = cls("embedded judges", "loaded", device, torch.float32)
        found.loaded = Loaded(judges, FRAMING, judges.tokenizer, judges.tokenizer.model_max_length)
        return found

    def load(self, folder: Path) -> Loaded:
        """The judges in a folder."""
        judges = resident(folder, self.revision, self.device)
        return Loaded(judges, FRAMING, judges.tokenizer, judges.tokenizer.model_max_length)

    def look(self, x: Tensor) -> Tensor:
        """Image embeddings `[B, 128]` of prepared pictures."""
        return self.loaded.model.clip.encode_image(x)

    def read(self, tokens: dict[str, Tensor]) -> Tensor:
        """Text embeddings `[B, 128]` of tokens."""
        return self.loaded.model.clip.encode_text(tokens["input_ids"])


class Traits(Sight):
    """The attribute classifier as an encoder of pictures."""

    def look(self, x: Tensor) -> Tensor:
        """What its heads read, `[B, 864]`, of prepared pictures."""
        return self.loaded.model.attributes.features(x)


def judge(kind: type[Kind], folder: Path, device: torch.device) -> Kind:
    """The process's one encoder of these judges. Raises ModelError when they are not there."""
    return shared(kind, str(folder), fingerprint(folder), device, torch.float32)


@cache
def resident(folder: Path, revision: str, device: torch.device) -> Judges:
    """The process's one copy of these judges."""
    judges = load(folder)
    judges.clip.to(device)
    judges.attributes.to(device)
    return judges


@cache
def fingerprint(folder: Path) -> str:
    """The first twelve digits of the sha256 of both judges' weights. Raises ModelError when they are not there."""
    total = hashlib.sha256()
    for name in ("attributes", "clip"):
        try:
            total.update((folder / f"{name}.safetensors").read_bytes())
        except OSError:
            raise absent(folder) from None
    return total.hexdigest()[:12]


def absent(folder: Path) -> ModelError:
    """That there are no judges in a folder."""
    return ModelError(f"no judges in {folder}: make them with `python -m studio.world judges`")
