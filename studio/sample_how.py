"""How `studio sample` draws: steps, scales, guidance, words that are removed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import Guiding


@dataclass(frozen=True)
class How:
    """How the pictures are drawn. decor: words whose share in the prompts is removed, texts parted by commas."""

    steps: int = 25
    guidance_scale: float = 5.0
    strength: float = 1.0
    guidance: Guiding = Guiding()
    decor: str = ""
    decor_strength: float = 1.0

    def about(self) -> dict[str, object]:
        """What a picture's header says of it."""
        said = vars(self) | {"guidance": self.guidance.said()}
        return said if self.decor else {key: value for key, value in said.items() if not key.startswith("decor")}

    def check(self) -> None:
        """UsageError for numbers that mean nothing."""
        if not (math.isfinite(self.guidance_scale) and math.isfinite(self.strength)):
            raise UsageError("--guidance-scale and --strength should be finite numbers")
        if not 0 <= self.decor_strength <= 1:
            raise UsageError(f"--decor-strength = {self.decor_strength}: should be from 0 to 1")
        if idle := self.guidance.idle():
            flag, kind = idle[0].replace("_", "-"), self.guidance.kind
            raise UsageError(f"--guidance.{flag} does nothing with {kind} guidance: leave it out, or change --guidance")
