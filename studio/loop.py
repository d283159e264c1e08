"""The one training loop: takes a trainer's losses, steps, and hands back what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from studio.engine import Engine
from studio.pipelines.protocols import Adapter, Backbone, Stream
from studio.snapshot import State
from studio.source import Source
from studio.tick import Tick
from studio.trainers.base import Loss, Settings

__all__ = ["Engine", "Stop", "Tick", "resting", "train"]

Stop = Callable[[], bool]


def train(
    settings: Settings,
    model: Backbone,
    adapter: Adapter,
    losses: Iterator[Loss],
    memory: dict[str, Any],
    *,
    data: Stream | None = None,
    start: int = 0,
    state: State | None = None,
    stop: Stop = lambda: False,
) -> Iterator[Tick]:
    """Steps `start + 1` to `settings.steps`, one `Tick` each; with `state`, continues bit for bit (on a CPU).

    data: what the trainer reads, so that a refused step can name the picture and give its batches back.
    Ends early after the first safe tick at which `stop()` is true in any process, and after one that says to stop.
    Raises UsageError for a setting that cannot be, NotFinite before a step on something not finite, NumericalError when
    something does not learn, MemoryShortage when the device is full, StudioError when the trainer breaks the rules of
    generators, and what a trainer says that the run has failed with, after the tick that says so.
    Without `state`, `memory` is left as it is. One loop at a time: accelerate keeps its state per process.
    """
    source = Source(losses, adapter)
    engine = Engine(settings, model, adapter, memory, data, source.exceptions)
    if state is not None:
        engine.restore(state)
    return _ticks(engine, source, start, stop)


def resting(
    settings: Settings, model: Backbone, adapter: Adapter, memory: dict[str, Any], state: State, step: int
) -> Tick:
    """The tick at which `state` was taken, without training: for a run that ended before its export."""
    engine = Engine(settings, model, adapter, memory)
    engine.restore(state)
    return Tick(step, {}, True, engine.state, engine.averaged)


def _ticks(engine: Engine, source: Source, start: int, stop: Stop) -> Iterator[Tick]:
    for step in range(start + 1, engine.settings.steps + 1):
        tick = engine.step(step, source)
        yield tick
        if tick.failed is not None:
            raise tick.failed
        if tick.stop or (tick.safe and engine.agree(stop())):
            return
