"""Settings of the guard of a run by rewards."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from studio.pipelines.settings import Part


class Guard(Part):
    """When a run by rewards is looked at from aside, and what ends it."""

    every: Annotated[int, Field(ge=0, description="Optimizer steps between looks; 0: nobody looks")] = 20
    terms: Annotated[
        tuple[str, ...],
        Field(description="Held-out judges, written as reward.terms; empty: fitting ones that are not trained for"),
    ] = ()
    pictures: Annotated[int, Field(ge=2, le=4096, description="Pictures drawn at every look")] = 16
    prompts: Annotated[
        int, Field(ge=0, description="Held-out prompts they are drawn of; 0: two pictures of each prompt")
    ] = 0
    seed: Annotated[int, Field(ge=0, description="Seed of the first picture; the next ones count up")] = 5_000_000
    fall: Annotated[
        float,
        Field(gt=0, description="The held-out score may fall so far below its best, in deviations of the start's"),
    ] = 0.5
    diversity: Annotated[
        float, Field(ge=0, le=1, description="Share of the start's diversity that must be left; 0: any")
    ] = 0.8
    kl: Annotated[float, Field(ge=0, description="Greatest distance from what the run began with; 0: any")] = 0.0
    patience: Annotated[int, Field(ge=1, description="Looks in a row that are not good before the run ends")] = 2
