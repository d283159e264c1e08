"""BLIP-T: how well pictures fit their prompts by BLIP, as a cosine (ITC) and as a probability (ITM).

blip-itc is the cosine of the two [CLS] projections; with the encoder that is the default here it is the number that
ClassDiffusion's released code prints under the name "BLIP2-T". BLIP-2's own numbers are in the scorer `blip2`.
blip-itm is the probability of "matches" of the head that looks at both together. Both read 35 tokens.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from studio.pipelines.encoders.blip import ITC, ITM, blip
from studio.pipelines.encoders.files import REVISION
from studio.pipelines.protocols import About, Scorer
from studio.pipelines.scorers._pairs import PairMatch
from studio.pipelines.settings import Part

NUMBERS = ("blip-itc", "blip-itm")


class Config(Part):
    """Which BLIP."""

    encoder: Annotated[
        str, Field(description="BlipForImageTextRetrieval in transformers' layout: a folder or a hub id")
    ] = "Salesforce/blip-itm-large-coco"
    revision: Annotated[str, Field(description=REVISION)] = ""


def build(config: Config, device: torch.device, dtype: torch.dtype) -> list[Scorer]:
    """blip-itc and blip-itm. No weights are read before the first call."""
    encoder = blip(config.encoder, config.revision, device, dtype)

    def about(name: str, number: str, least: float) -> About:
        group = f"{name}: {number}, {encoder.id}"
        return About(name, encoder.id, encoder.preprocessing, group, needs=("prompts",), bounds=(least, 1.0))

    return [
        PairMatch(about("blip-itc", "BLIP-1 cosine, BLIP2-T of ClassDiffusion's code", -1.0), encoder, ITC),
        PairMatch(about("blip-itm", "BLIP-1 probability of a match", 0.0), encoder, ITM),
    ]
