"""Settings of a reward: what is wished for, and how it is mixed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from studio.pipelines.rewards_terms import parse
from studio.pipelines.settings import Part


class Rewards(Part):
    """What is wished for."""

    terms: Annotated[
        tuple[str, ...],
        Field(
            description="A scorer's number, with a weight and settings if need be (`0.5*hps`, `jpeg-soft-bits`, "
            "`embedded-wish(wish=colour=teal)`), a Python function `module:name` of (images, prompts, references), or "
            "the http address of a judge"
        ),
    ] = ()
    standardise: Annotated[
        Literal["auto", "yes", "no"],
        Field(description="Measure each term in its running deviations; auto: where there is more than one"),
    ] = "auto"
    target: Annotated[
        float | None,
        Field(description="The reward is minus the distance of the weighted sum from this number; none: the sum"),
    ] = None
    timeout: Annotated[float, Field(gt=0, le=3600, description="Seconds a remote judge has for an answer")] = 60.0
    retries: Annotated[int, Field(ge=0, le=10, description="How often a remote judge is asked again")] = 3

    @model_validator(mode="after")
    def sensible(self) -> Rewards:
        """Raises ValueError for a text that is no term, one that comes twice, and a target that moves."""
        labels = [parse(text).label for text in self.terms]
        twice = next((label for label in labels if labels.count(label) > 1), "")
        if twice:
            raise ValueError(f"the term '{twice}' is given twice: give it once, with the sum of the weights")
        if self.target is not None and self.standardised:
            raise ValueError("a target is in the terms' own units: set standardise to no, or leave the target out")
        return self

    @property
    def standardised(self) -> bool:
        """Whether terms are measured in their deviations."""
        return self.standardise == "yes" or (self.standardise == "auto" and len(self.terms) > 1)
