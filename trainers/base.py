"""What every trainer shares: `Settings`, and the `Loss` a trainer yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from studio.pipelines.adapters import lora
from studio.pipelines.adapters.tokens import Config as Tokens
from studio.pipelines.choice_settings import Choice
from studio.pipelines.data import Pictures
from studio.pipelines.errors import StudioError
from studio.pipelines.preview_settings import Previews
from studio.pipelines.protocols import Adapter, Backbone, Stream
from studio.pipelines.settings import Part

__all__ = ["Choice", "Loss", "Previews", "Settings", "Trainer", "Turn"]

Precision = Literal["auto", "no", "fp16", "bf16"]
Quantize = Literal["no", "int8"]


@dataclass(frozen=True)
class Turn:
    """What a trainer says after an optimizer step: texts and numbers for the run's events.

    fresh: it has set the adapter back, and what optimizer, average and watch for spikes remember is of no use any more.
    stop: why the run ends with this step, finished; after a safe loss only. failed: why unfinished, and likewise.
    """

    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fresh: bool = False
    numbers: dict[str, float] = field(default_factory=dict)
    stop: str = ""
    failed: StudioError | None = None


@dataclass(frozen=True)
class Loss:
    """One scalar to step on, named numbers to plot, and whether a checkpoint may be taken after it.

    idle: 1.0 where there is nothing to learn from it, else 0.0; a step of which all losses are idle, in all processes,
    leaves weights and moments as they are. steepness: how many times a squared error's its gradient is about; `clip`
    counts in it. then: called after the step with its numbers, means over losses and processes; it may change memory.
    """

    value: Tensor
    numbers: dict[str, float | Tensor] = field(default_factory=dict)
    safe: bool = True
    idle: float | Tensor | None = None
    steepness: float = 1.0
    then: Callable[[Mapping[str, float]], Turn] | None = None


class Settings(Part):
    """Settings all trainers share; a trainer's `Config` extends it."""

    steps: Annotated[int, Field(ge=1, le=10**9, description="Optimizer steps")] = 500
    batch: Annotated[int, Field(ge=1, le=4096, description="Pictures per loss")] = 1
    accumulate: Annotated[int, Field(ge=1, le=65536, description="Losses summed before one optimizer step")] = 1
    lr: Annotated[float, Field(gt=0, le=10, description="Learning rate")] = 1e-4
    optimizer: Annotated[str, Field(description="adamw, adamw8bit, prodigy, adafactor, schedulefree, sgd")] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay of the optimizer")] = 1e-2
    schedule: Annotated[str, Field(description="Learning-rate schedule, by diffusers' name")] = "constant"
    warmup: Annotated[int, Field(ge=0, description="Steps over which the learning rate rises")] = 0
    clip: Annotated[float, Field(ge=0, description="Largest gradient norm; 0: no clipping")] = 1.0
    ema: Annotated[float, Field(ge=0, lt=1, description="Decay of the averaged adapter that is exported; 0: off")] = 0.0
    precision: Annotated[Precision, Field(description="Compute type of frozen parts; auto: bf16 where fast")] = "auto"
    attention: Annotated[str, Field(description="auto, sdpa, matmul, chunked or xformers")] = "auto"
    deterministic: Annotated[
        bool, Field(description="On a GPU: deterministic algorithms, slower; a CPU is exact anyway")
    ] = False
    gradient_checkpointing: Annotated[bool, Field(description="Less memory for about a third more time")] = False
    free_encoders: Annotated[bool, Field(description="Text encoders and autoencoder wait aside in training")] = False
    quantize: Annotated[Quantize, Field(description="Linear layers of the frozen network in 8 bits")] = "no"
    offload: Annotated[bool, Field(description="The frozen network waits in main memory, layer by layer")] = False
    save_every: Annotated[
        int, Field(ge=0, description="Steps between checkpoints that are kept; 0: only by the clock and at the end")
    ] = 0
    save_minutes: Annotated[
        float, Field(ge=0, description="Minutes without a checkpoint after which one is made; 0: no such limit")
    ] = 10.0
    keep_last: Annotated[int, Field(ge=0, description="Newest checkpoints that are kept; 0: all")] = 0
    keep_best: Annotated[bool, Field(description="Keep the checkpoint that scores best, however old it is")] = True
    keep_steps: Annotated[tuple[int, ...], Field(description="Steps whose checkpoints are never deleted")] = ()
    disk_wait: Annotated[
        float, Field(ge=0, description="Minutes that the run waits for room when the disk is full; 0: it ends")
    ] = 60.0
    adapter: Annotated[lora.Config, Field(description="Which weights learn")] = lora.Config()
    start: Annotated[
        Path | None,
        Field(description="Run or adapter file that it goes on from, with that file's kind and rank; lcm:embedded"),
    ] = None
    tokens: Annotated[Tokens, Field(description="New words that learn beside the adapter (pivotal tuning)")] = Tokens()
    data: Annotated[Pictures, Field(description="What it learns from")] = Pictures()
    previews: Annotated[Previews, Field(description="Pictures made on the way")] = Previews()
    choice: Annotated[Choice, Field(description="How the best checkpoint is found")] = Choice()

    def undecided(self) -> Self:
        """The same, with nothing fixed that follows from other settings: these may change now."""
        return self


class Trainer(Protocol):
    """The shape of a trainer module (see `registry.trainer`)."""

    Config: type[Settings]

    @staticmethod
    def losses(
        config: Any, model: Backbone, adapter: Adapter, data: Stream, memory: dict[str, Any]
    ) -> Iterator[Loss]: ...
