"""Settings of previews."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from studio.pipelines.guidance_settings import Guiding
from studio.pipelines.settings import Part


class Previews(Part):
    """Pictures made during training, with fixed seeds, beside the base model's picture for the same seed."""

    prompts: Annotated[tuple[str, ...], Field(description="Prompts; empty: made from the data's captions")] = ()
    every: Annotated[int, Field(ge=0, description="Steps between previews; 0: only at the end")] = 0
    n: Annotated[int, Field(ge=1, description="Pictures per prompt")] = 1
    steps: Annotated[int, Field(ge=1, le=1000, description="Sampler steps")] = 25
    guidance_scale: Annotated[float, Field(ge=1, description="Classifier-free guidance scale")] = 5.0
    seed: Annotated[int, Field(ge=0, description="Seed of the first picture; the next ones count up")] = 0
    guidance: Annotated[Guiding, Field(description="How prompt, adapter and base model steer the sampler")] = Guiding()
