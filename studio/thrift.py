"""The settings that save memory, at work on a run's model: quantised, offloaded, encoders set aside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from studio import ladder
from studio.pipelines import freeing, quantize
from studio.pipelines.freeing import Parked
from studio.pipelines.offload import Offload
from studio.pipelines.protocols import Backbone
from studio.trainers.base import Settings


@dataclass
class Thrift:
    """Made of a loaded model before its adapter is built; nothing happens where no setting asks for it."""

    settings: Settings
    model: Backbone
    parked: list[Parked] = field(default_factory=list)
    away: Offload | None = None

    def __post_init__(self) -> None:
        ladder.refuse(self.settings, self.model.device.type)
        if self.settings.quantize != "no":
            self.model.fingerprint()  # taken now: quantised weights have another one
            quantize.quantize(self.model.net, self.settings.quantize)

    @contextmanager
    def training(self, folder: Path) -> Iterator[None]:
        """Around the training phase, when the cache is full and the adapter built; `folder` keeps what is set aside."""
        if self.settings.free_encoders and not self.parked:
            self.parked = freeing.encoders(self.model, folder / ".parked")
        if self.settings.offload and self.away is None:
            self.model.fingerprint()
            self.away = Offload(self.model.net, self.model.device)
        self.park()
        with nullcontext() if self.away is None else self.away.training():
            yield

    def park(self) -> None:
        """After previews on the way, which brought the encoders back."""
        freeing.park(self.parked)
