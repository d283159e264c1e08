"""Two branches under classifier-free guidance: what the guidance of adapters is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from studio.pipelines.guidance import rescaled
from studio.pipelines.guidance_branches import Branch, Plan
from studio.pipelines.protocols import Cond


@dataclass(frozen=True)
class Guided:
    """The prompt's branch and the empty prompt's, under classifier-free guidance; scale 1 needs the first alone."""

    empty: Branch
    prompt: Branch
    scale: float

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Those that are called, the empty prompt's first."""
        return (self.prompt,) if self.scale == 1 else (self.empty, self.prompt)

    def out(self, found: Mapping[str, Tensor]) -> Tensor:
        """empty + scale (prompt - empty)."""
        cond = found[self.prompt.name]
        if self.scale == 1:
            return cond
        uncond = found[self.empty.name]
        return uncond + self.scale * (cond - uncond)

    def plan(self, rescale: float = 0.0) -> Plan:
        """The plan of these two alone."""

        def combine(found: Mapping[str, Tensor]) -> Tensor:
            return rescaled(self.out(found), found[self.prompt.name], 0.0 if self.scale == 1 else rescale)

        return Plan(self.branches, combine)


def of_base(base: tuple[Cond, Cond], scale: float) -> Guided:
    """The base model under cfg."""
    empty, prompt = base
    return Guided(Branch("base empty", 0.0, empty), Branch("base", 0.0, prompt), scale)


def of_tuned(empty: Cond, scale: float) -> Guided:
    """The tuned model under cfg."""
    return Guided(Branch("empty", 1.0, empty), Branch("prompt"), scale)
