"""The settings of guidance, as previews and `studio sample` take them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from studio.pipelines.settings import Part

Kind = Literal["cfg", "consistency", "personalization", "rl", "combined"]
KINDS: tuple[str, ...] = get_args(Kind)
READS: dict[str, tuple[str, ...]] = {
    "consistency": ("w_con",),
    "personalization": ("omega",),
    "rl": ("gain",),
    "combined": ("window", "late_scale"),
}
"""The settings that each kind reads, beside kind and rescale."""


class Guiding(Part):
    """How the prompt, the adapter and its base model steer the sampler."""

    kind: Annotated[
        Kind, Field(description="cfg, or of adapter and base model: consistency, personalization, rl, combined")
    ] = "cfg"
    w_con: Annotated[
        float, Field(ge=0, description="consistency: weight of adapter minus base model; 0: the base model alone")
    ] = 3.0
    omega: Annotated[
        float, Field(ge=0, le=1, description="personalization: strength of the adapter in the weak model; 1: cfg")
    ] = 0.5
    gain: Annotated[
        float, Field(ge=0, description="rl: 0 is what the run began with (or the base), 1 the adapter, more: beyond it")
    ] = 2.0
    window: Annotated[
        float, Field(ge=0, le=1, description="combined: share of the noise schedule, noisy end first, for the base")
    ] = 0.5
    late_scale: Annotated[
        float | None, Field(ge=1, description="combined: guidance scale of the adapter's part; empty: the same")
    ] = None
    rescale: Annotated[
        float, Field(ge=0, le=1, description="How far contrast goes back to the unguided prediction's (Lin et al.)")
    ] = 0.0

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings that count for this kind."""
        return (*READS.get(self.kind, ()), "rescale")

    @property
    def plain(self) -> bool:
        """Whether this is what every other tool does: cfg, nothing else."""
        return self.kind == "cfg" and not self.rescale

    def idle(self) -> list[str]:
        """Settings that are not at their defaults, and do not count for this kind."""
        fields = type(self).model_fields
        moved = [name for name, field in fields.items() if getattr(self, name) != field.default]
        return [name for name in moved if name not in ("kind", *self.reads)]

    def hears_negative(self, scale: float) -> bool:
        """Whether a branch is told the negative prompt at a guidance scale: at 1 the prompt's own prediction is all."""
        if self.kind != "combined":
            return scale != 1
        late = scale if self.late_scale is None else self.late_scale
        return (self.window > 0 and scale != 1) or (self.window < 1 and late != 1)

    def without_adapter(self) -> Guiding:
        """What is left of it for the base model alone."""
        return Guiding(rescale=self.rescale)

    def said(self) -> str:
        """One line of what counts: "consistency w_con=3"."""
        values = {name: getattr(self, name) for name in self.reads}
        used = [f"{name}={value:g}" for name, value in values.items() if value is not None]
        return " ".join([self.kind, *(word for word in used if word != "rescale=0")])
