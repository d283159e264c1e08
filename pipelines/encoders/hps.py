"""HPSv2: OpenCLIP's ViT-H/14 fine-tuned on people's choices between pictures (Wu et al., arXiv:2306.09341)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.pipelines.encoders.base import Loaded, shared
from studio.pipelines.encoders.clip import PREPROCESSING
from studio.pipelines.encoders.framing import OPENAI, Framing
from studio.pipelines.encoders.single import SingleFile, fill, tensors

BASE = "xswu/HPSv2"
HEADS = 16  # of both towers of ViT-H/14; the only number that the tensors do not show


class Hps(SingleFile):
    """HPSv2.1's weights in an open_clip model."""

    file = "HPS_v2.1_compressed.pt"
    preprocessing = PREPROCESSING

    def load(self, folder: Path) -> Loaded:
        """Network, framing and tokenizer out of the file `folder`."""
        from accelerate import init_empty_weights
        from open_clip.model import CLIP

        state = tensors(folder)
        settings = configured(state)
        with init_empty_weights(include_buffers=False):
            model = CLIP(**settings)
        fill(model, state)
        side, length = settings["vision_cfg"]["image_size"], settings["text_cfg"]["context_length"]
        model.to(self.device, self.dtype).eval().requires_grad_(False)
        return Loaded(model, Framing(side, side, *OPENAI), Tokens(length), length)

    def look(self, x: Tensor) -> Tensor:
        """Features `[B, D]` of prepared pictures."""
        return self.loaded.model.encode_image(x)

    def read(self, tokens: dict[str, Tensor]) -> Tensor:
        """Features `[B, D]` of tokens."""
        return self.loaded.model.encode_text(tokens["input_ids"])


class Hps20(Hps):
    """HPSv2.0's weights."""

    file = "HPS_v2_compressed.pt"


VERSIONS: dict[str, type[Hps]] = {"v2.0": Hps20, "v2.1": Hps}


class Tokens:
    """open_clip's tokenizer with the signature of transformers'."""

    def __init__(self, longest: int) -> None:
        from open_clip import get_tokenizer

        self.tokenizer, self.longest = get_tokenizer("ViT-H-14"), longest

    def __call__(self, text: str | Sequence[str], **_: Any) -> Any:
        """`input_ids`: `[B, L]`, padded and cut, of several texts; a list, whole, of one."""
        from transformers import BatchEncoding

        if isinstance(text, str):
            ids = [self.tokenizer.sot_token_id, *self.tokenizer.encode(text), self.tokenizer.eot_token_id]
            return BatchEncoding({"input_ids": ids})
        return BatchEncoding({"input_ids": self.tokenizer(list(text), self.longest)})


def configured(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """open_clip's configuration of the vision and text transformers that the tensors are of."""

    def layers(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})

    width, _, _, patch = state["visual.conv1.weight"].shape
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    length, inner = state["positional_embedding"].shape
    return {
        "embed_dim": state["text_projection"].shape[1],
        "vision_cfg": {
            "image_size": grid * patch,
            "patch_size": patch,
            "width": width,
            "layers": layers("visual.transformer.resblocks."),
            "head_width": width // HEADS,
        },
        "text_cfg": {
            "context_length": length,
            "vocab_size": state["token_embedding.weight"].shape[0],
            "width": inner,
            "heads": HEADS,
            "layers": layers("transformer.resblocks."),
        },
    }


def hps(version: str, source: str, revision: str, device: torch.device, dtype: torch.dtype) -> Hps:
    """HPSv2 of a version in VERSIONS; nothing is read yet."""
    return shared(VERSIONS[version], source, revision, device, dtype)
