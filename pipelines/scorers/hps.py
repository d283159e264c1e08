"""HPSv2: how people would like a picture for its prompt (Wu et al., arXiv:2306.09341), version 2.1 or 2.0.

The cosine of a fine-tuned OpenCLIP ViT-H/14, without a scale: v2.1 gives about 0.14 to 0.34, v2.0 about 0.25 to 0.29
(published tables print it times 100). The versions cannot be compared, nor can different prompts. The published files
are pickles: convert them to .safetensors, or allow pickles.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from studio.pipelines.encoders.files import REVISION
from studio.pipelines.encoders.hps import BASE, hps
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers.base import TextMatch
from studio.pipelines.settings import Part

NUMBERS = ("hps-v2.1", "hps-v2.0")
ASKED = {"hps-v2.1": ("version", "v2.1"), "hps-v2.0": ("version", "v2.0")}


class Config(Part):
    """Which HPSv2."""

    version: Annotated[
        Literal["v2.0", "v2.1"], Field(description="Version; 2.1 agrees with people more often and spreads wider")
    ] = "v2.1"
    encoder: Annotated[
        str,
        Field(
            description="Its weights: a file, or a folder or hub id with HPS_v2.1_compressed.pt (HPS_v2_compressed.pt "
            "for v2.0) or the same name in .safetensors"
        ),
    ] = BASE
    revision: Annotated[str, Field(description=REVISION)] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """hps-v2.1 or hps-v2.0. No weights are read before the first call."""
    encoder = hps(config.version, config.encoder, config.revision, device, dtype)
    name = f"hps-{config.version}"
    group, bounds = f"{name}: cosine, {encoder.id}", (-1.0, 1.0)
    about = About(name, encoder.id, encoder.preprocessing, group, needs=("prompts",), bounds=bounds)
    return [TextMatch(about, encoder, plain)]


def plain(cosine: Tensor) -> Tensor:
    """The cosine itself."""
    return cosine
