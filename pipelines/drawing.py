"""How the pictures of an adapter are meant to be drawn: sampler, steps and guidance, as its file's header says it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

from studio.pipelines.assets import assets_folder
from studio.pipelines.errors import ModelError, UsageError

EMBEDDED = "lcm:embedded"
KEY = "studio.sampler"  # in an adapter file's header, as JSON; without it any sampler will do
FEW_STEP = ("lcm", "tcd", "pcm")  # need a network that was taught to jump; the base model has a sampler of its own
SAMPLERS = ("auto", "ddim", "euler", *FEW_STEP, "sde", "dance")
SCHEDULERS = {  # diffusers' class for each sampler that it has, "" for the one that the model came with
    "auto": "",
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}
CALLS = {"tcd": {"eta": 0.3}}  # what a stock pipeline's call must be told besides: its own default would be 0
MOST = 1000  # steps


@dataclass(frozen=True)
class Drawing:
    """A sampler, its number of steps and the guidance scale."""

    sampler: str = "auto"
    steps: int = 25
    guidance_scale: float = 5.0

    @property
    def few_step(self) -> bool:
        """Whether only a distilled network draws well with it."""
        return self.sampler in FEW_STEP

    @property
    def header(self) -> dict[str, str]:
        """What a file says of it; nothing where any sampler will do."""
        return {} if self.sampler == "auto" else {KEY: json.dumps(asdict(self))}

    def said(self) -> str:
        """In words: "lcm, 4 steps, guidance 1"."""
        return f"{self.sampler}, {self.steps} step{'s' * (self.steps != 1)}, guidance {self.guidance_scale:g}"


USUAL, FEW = Drawing(), Drawing("lcm", 4, 1.0)  # where neither a person nor a file says anything


def wished(
    own: Drawing | None, usual: Drawing = USUAL, sampler: str = "", steps: int = 0, guidance_scale: float = 0.0
) -> Drawing:
    """What is drawn with: what a person says, else what the file is made for (`own`), else what is usual.

    A sampler of few steps in the place of another kind, or the other way round, brings numbers of its own.
    """
    start = own or usual
    if sampler and Drawing(sampler).few_step != start.few_step:
        start = FEW if sampler in FEW_STEP else usual
    return Drawing(sampler or start.sampler, steps or start.steps, guidance_scale or start.guidance_scale)


def differing(name: str, own: Drawing | None, drawn: Drawing) -> str:
    """A line where a file is drawn in another way than it is made for; "" where it is not."""
    return f"{name}: made for {own.said()}; drawn with {drawn.said()}" if own is not None and own != drawn else ""


def known(name: str, flag: str = "--sampler") -> str:
    """The name of a sampler. Raises UsageError for an unknown one, with the nearest."""
    if name not in SAMPLERS:
        near = get_close_matches(name, SAMPLERS, 1)
        meant = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(SAMPLERS)}"
        raise UsageError(f"{flag} = {name[:40]!a}: no such sampler; {meant}")
    return name


def read(header: Mapping[str, str], path: Path) -> Drawing | None:
    """What the header of the file at `path` asks for; None where it asks for nothing. Raises ModelError."""
    if KEY not in header:
        return None
    try:
        said = json.loads(header[KEY])
        found = Drawing(said["sampler"], said["steps"], said["guidance_scale"])
        sound = type(found.steps) is int and 1 <= found.steps <= MOST and math.isfinite(found.guidance_scale)
        sound = sound and found.guidance_scale >= 1 and isinstance(found.sampler, str)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise ModelError(f"{path}: its header field {KEY} is damaged; save or download the file again")
    if found.sampler not in SAMPLERS:
        raise ModelError(f"{path}: made for the sampler {found.sampler[:40]!a}, which this version does not know")
    return found


def place(name: str) -> Path:
    """The path of an adapter file by its name; `lcm:embedded` is the few-step adapter that comes with the studio."""
    inside = assets_folder() / "base" / "lcm" / "adapter.safetensors"
    return inside if name == EMBEDDED else Path(name).expanduser()


def together(wanted: Sequence[tuple[str, Drawing | None]], sampler: str = "") -> Drawing | None:
    """What adapters in one model ask for together, each with its name; None where none asks.

    sampler: the one that is drawn with whatever they ask for, if any. Raises UsageError for two that ask for different
    ones. Of one sampler, the first one's numbers hold.
    """
    asked = [(name, drawing) for name, drawing in wanted if drawing is not None]
    if sampler:
        return next((own for _, own in asked if own.sampler == sampler), asked[0][1] if asked else None)
    for name, drawing in asked[1:]:
        if drawing.sampler != asked[0][1].sampler:
            first = f"{asked[0][0]} is made for {asked[0][1].sampler}"
            raise UsageError(f"{first}, {name} for {drawing.sampler}: they cannot be drawn together; give --sampler")
    return asked[0][1] if asked else None
