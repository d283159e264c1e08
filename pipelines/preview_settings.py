"""Settings of previews."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator
from typing_extensions import Self

from studio.pipelines.drawing import FEW_STEP, Drawing, known
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import Guiding
from studio.pipelines.settings import Part

BASE = "base_"  # before a setting's name: the base model's own, where the adapter is drawn in few steps


class Previews(Part):
    """Pictures made during training, with fixed seeds, beside the base model's picture for the same seed."""

    prompts: Annotated[tuple[str, ...], Field(description="Prompts; empty: made from the data's captions")] = ()
    every: Annotated[int, Field(ge=0, description="Steps between previews; 0: only at the end")] = 0
    n: Annotated[int, Field(ge=1, description="Pictures per prompt")] = 1
    steps: Annotated[int, Field(ge=1, le=1000, description="Sampler steps")] = 25
    guidance_scale: Annotated[float, Field(ge=1, description="Classifier-free guidance scale")] = 5.0
    sampler: Annotated[
        str, Field(description="auto (the model's own), ddim, euler, sde, dance; lcm, tcd or pcm for few steps")
    ] = "auto"
    base_steps: Annotated[
        int, Field(ge=1, le=1000, description="Beside lcm, tcd, pcm: sampler steps of the base model's pictures")
    ] = 25
    base_guidance_scale: Annotated[
        float, Field(ge=1, description="Beside lcm, tcd, pcm: guidance scale of the base model's pictures")
    ] = 5.0
    seed: Annotated[int, Field(ge=0, description="Seed of the first picture; the next ones count up")] = 0
    guidance: Annotated[Guiding, Field(description="How prompt, adapter and base model steer the sampler")] = Guiding()

    @field_validator("sampler")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            return known(name)
        except UsageError as error:
            raise ValueError(str(error).partition(": ")[2]) from None

    @property
    def drawing(self) -> Drawing:
        """Sampler, steps and guidance of the adapter's pictures."""
        return Drawing(self.sampler, self.steps, self.guidance_scale)

    @property
    def base_drawing(self) -> Drawing:
        """Those of the base model's: its own where the adapter is drawn in few steps, else the same."""
        own = Drawing("auto", self.base_steps, self.base_guidance_scale)
        return own if self.drawing.few_step else self.drawing

    def of_base(self) -> Self:
        """The same, for the base model's pictures."""
        return self.model_copy(update=vars(self.base_drawing))


class FewStep(Previews):
    """The previews of trainers whose adapters draw in few steps."""

    sampler: Annotated[str, Field(description="lcm, tcd or pcm; auto, ddim, euler: as the base model is drawn")] = "lcm"
    steps: Annotated[int, Field(ge=1, le=1000, description="Sampler steps")] = 4
    guidance_scale: Annotated[float, Field(ge=1, description="Guidance scale; 1 where the network hears none")] = 1.0


def as_trained(settings: Any, asked: Any) -> dict[str, Any]:
    """How previews are drawn beside a run that draws in few steps itself: the same way, which its adapter is made for.

    settings: the trainer's; asked: the table of previews as a person wrote it. Nothing where the run draws in many
    steps, or the person names a sampler of many, or the trainer has no such settings.
    """
    named = str(asked.get("sampler", "")) if isinstance(asked, Mapping) else ""
    own: list[Any] = [getattr(settings, name, None) for name in ("sampler", "sampler_steps", "guidance_scale")]
    if own[0] not in FEW_STEP or None in own or (named and named not in FEW_STEP):
        return {}
    return vars(Drawing(named or own[0], own[1], own[2]))


def advised(kind: type[Previews], advice: Any) -> Any:
    """What a model advises for previews of a kind: for few steps, its steps and guidance are the base model's own."""
    if kind.model_fields["sampler"].default not in FEW_STEP or not isinstance(advice, Mapping):
        return advice
    return {BASE + key if key in ("steps", "guidance_scale") else key: value for key, value in advice.items()}
