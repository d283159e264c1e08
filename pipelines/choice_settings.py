"""Settings of the choice among checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from studio.pipelines.settings import Part


class Choice(Part):
    """How the best checkpoint is found: every kept one draws a few held-out prompts, and is scored."""

    score: Annotated[
        Literal["auto", "always", "never"],
        Field(
            description="Score kept checkpoints; auto: when there are several, not on the toy; never: nothing is scored"
        ),
    ] = "auto"
    prompts: Annotated[
        tuple[Annotated[str, Field(pattern=r"\{subject\}")], ...],
        Field(description="Prompts with {subject} in them, no captions of the data; empty: some of `studio evaluate`"),
    ] = ()
    seeds: Annotated[int, Field(ge=1, le=256, description="Pictures per prompt of each checkpoint")] = 2
    final_seeds: Annotated[
        int, Field(ge=1, le=256, description="Pictures per prompt of every kept checkpoint, at the end of the run")
    ] = 4
    leaders: Annotated[int, Field(ge=1, le=64, description="Leading checkpoints that are tried at other strengths")] = 2
    strengths: Annotated[
        tuple[Annotated[float, Field(gt=0, le=4)], ...], Field(description="Strengths tried for them; 1 is for all")
    ] = (0.6, 0.8, 1.2)
    identity: Annotated[
        float, Field(ge=0, le=100, description="Points of prompt accuracy that a point of identity is worth")
    ] = 1.0
    clip: Annotated[str, Field(description="CLIP that scores, folder or hub id; empty: OpenAI's ViT-B/32")] = ""
    dino: Annotated[str, Field(description="DINO that scores identity, folder or hub id")] = "facebook/dinov2-base"
    pick: Annotated[bool, Field(description="Export the recommended checkpoint at the recommended strength")] = False
