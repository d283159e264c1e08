"""BLIP-2: how well pictures fit their prompts by its Q-Former, as a cosine (ITC) and as a probability (ITM).

blip2-itc is the largest of the 32 query tokens' cosines with the text; blip2-itm the probability of "matches". This is
true BLIP-2, as ClassDiffusion's paper names its "BLIP2-T"; the numbers of that method's released code are BLIP's, the
scorer `blip` here, and are not comparable. It is not known which of both its table holds. Both read 32 tokens.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from studio.pipelines.encoders.blip import ITC, ITM, blip2
from studio.pipelines.encoders.files import REVISION
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._pairs import PairMatch
from studio.pipelines.settings import Part

NUMBERS = ("blip2-itc", "blip2-itm")


class Config(Part):
    """Which BLIP-2."""

    encoder: Annotated[
        str, Field(description="Blip2ForImageTextRetrieval in transformers' layout: a folder or a hub id")
    ] = "Salesforce/blip2-itm-vit-g"
    revision: Annotated[str, Field(description=REVISION)] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """blip2-itc and blip2-itm. No weights are read before the first call."""
    encoder = blip2(config.encoder, config.revision, device, dtype)

    def about(name: str, number: str, least: float) -> About:
        group = f"{name}: {number}, {encoder.id}"
        return About(name, encoder.id, encoder.preprocessing, group, needs=("prompts",), bounds=(least, 1.0))

    return [
        PairMatch(about("blip2-itc", "best cosine of a query token", -1.0), encoder, ITC),
        PairMatch(about("blip2-itm", "probability of a match", 0.0), encoder, ITM),
    ]
