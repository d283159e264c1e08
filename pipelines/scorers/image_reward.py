"""ImageReward v1.0: a person's ranking of pictures for a prompt (Xu et al., arXiv:2304.05977), in transformers' BLIP.

About -2.3 to 2, standardised by the release; Stable Diffusion 1.5 has about 0.1 to 0.2. It reads 35 tokens. The
published file is a pickle: convert it to .safetensors, or allow pickles.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from studio.pipelines.encoders.files import REVISION
from studio.pipelines.encoders.image_reward import BASE, image_reward
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._pairs import PairMatch
from studio.pipelines.settings import Part

NUMBERS = ("image-reward",)


class Config(Part):
    """Which ImageReward. BERT's tokenizer is read from beside the weights if it lies there, else from the hub."""

    encoder: Annotated[
        str,
        Field(description="Its weights: a file, or a folder or hub id with ImageReward.pt or ImageReward.safetensors"),
    ] = BASE
    revision: Annotated[str, Field(description=REVISION)] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """image-reward. No weights are read before the first call."""
    encoder = image_reward(config.encoder, config.revision, device, dtype)
    group = f"image-reward: standardised as published, {encoder.id}"
    return [PairMatch(About("image-reward", encoder.id, encoder.preprocessing, group, needs=("prompts",)), encoder)]
