"""The embedded judges as a captioner: the words of the studio's own small world, offline; no use for photographs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from studio.pipelines.captioners.base import Captioner, Wording
from studio.pipelines.captioners.wording import sentence

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from studio.pipelines.encoders.judges import Judges

EVEN = 0.08  # standard deviation of a plain background's edge: what a small generator leaves of one colour


class Config(Wording):
    """Settings of the embedded captioner."""

    judges: Annotated[Path | None, Field(description="Folder of the judges; none: those that come with the studio")] = (
        None
    )
    sure: Annotated[
        float, Field(ge=0, le=1, description="Likelihood from which style, size, side and tint are said")
    ] = 0.9  # right 996 times of 1000 in scenes nobody trained on


def build(config: Config, device: torch.device, dtype: torch.dtype) -> Captioner:
    """The captioner; no weights are read yet."""
    return Embedded(config, device)


class Embedded:
    """Captions out of the attribute classifier's answers."""

    id = "embedded judges"

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device

    @property
    def nouns(self) -> tuple[str, ...]:
        """Every object it can name."""
        return tuple(judges(self.config.judges, self.device).attributes.answers["object"])

    def __call__(self, pictures: Sequence[Tensor]) -> list[str]:
        """One caption per picture. ModelError: the judges are not there."""
        return [sentence(answers, self.config.style) for answers in self.read(pictures)]

    def read(self, pictures: Sequence[Tensor]) -> list[dict[str, str]]:
        """The answers, one dict per picture; '' for an attribute the classifier is not sure of."""
        import torch

        from studio.pipelines.encoders.judges import FRAMING

        net = judges(self.config.judges, self.device).attributes
        found = []
        for start in range(0, len(pictures), self.config.batch):
            chunk = pictures[start : start + self.config.batch]
            with torch.no_grad():
                seen = net(FRAMING(chunk).to(self.device))
            likely = {name: logits.softmax(-1).max(-1) for name, logits in seen.items()}
            for row in range(len(chunk)):
                found.append({name: self.answer(name, best, row, net.answers[name]) for name, best in likely.items()})
        return found

    def answer(self, name: str, best: torch.return_types.max, row: int, words: Sequence[str]) -> str:
        """What is said of one attribute of one picture."""
        sure = float(best.values[row]) >= self.config.sure
        word = words[int(best.indices[row])]
        if not sure and name not in ("object", "colour"):
            return ""
        return "" if word == "none" else word


@cache
def judges(folder: Path | None, device: torch.device) -> Judges:
    """The judges, read once per process."""
    from studio.pipelines.encoders.judges import load

    found = load(folder)
    found.attributes.to(device)
    return found


def doubt(picture: Tensor) -> str:
    """Why a picture `[3, h, w]` in 0..1 may be none of the embedded world; '' where it looks like one."""
    edge = [picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]]
    spread = sorted(float(side.float().std(1).mean()) for side in edge)[2]  # one side may be touched
    return "" if spread <= EVEN else "no plain background, so hardly of the embedded world: its caption is a guess"
