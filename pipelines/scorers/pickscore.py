"""PickScore: which of several pictures of one prompt people would pick (Kirstain et al., arXiv:2305.01569).

exp(logit_scale) x cosine of a CLIP ViT-H/14, usually 18 to 24. Only differences between pictures of the same prompt
mean something: softmax over them is the probability of being picked.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from studio.pipelines.encoders.files import REVISION
from studio.pipelines.encoders.pick import BASE, pick
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers.base import TextMatch
from studio.pipelines.settings import Part

NUMBERS = ("pickscore",)


class Config(Part):
    """Which PickScore."""

    encoder: Annotated[str, Field(description="PickScore in transformers' layout: a folder or a hub id")] = BASE
    revision: Annotated[str, Field(description=REVISION)] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """pickscore. No weights are read before the first call."""
    encoder = pick(config.encoder, config.revision, device, dtype)
    group = f"pickscore: exp(logit_scale) x cosine, {encoder.id}"
    about = About("pickscore", encoder.id, encoder.preprocessing, group, needs=("prompts",))
    return [TextMatch(about, encoder, encoder.logit)]
