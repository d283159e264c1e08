"""When memory runs out: the rungs a run goes down, one retry with the next one, and what would fit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from studio.config import RunConfig, flat, update_toml
from studio.disk import DiskFull
from studio.pipelines.errors import MemoryShortage, UsageError
from studio.store import Run
from studio.trainers.base import Settings

T = TypeVar("T")
Cost = Callable[[RunConfig], int]  # predicted peak bytes of the training phase: `plan.training`
EVENT = "retry"
HELPS = 0.97  # a rung that leaves more than this share of the memory is passed by
WORDS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")  # torch's, on CPU and GPU


class Say(Protocol):
    """The journal: an event with its fields."""

    def __call__(self, event: str, **fields: Any) -> None: ...


@dataclass(frozen=True)
class Have:
    """What is here: the kind of device, optional packages that are installed, whether a checkpoint is gone on from."""

    device: str = "cpu"
    packages: frozenset[str] = frozenset()
    checkpoint: bool = False

    @classmethod
    def here(cls, run: Run | None = None) -> Have:
        """What this process finds."""
        import torch

        packages = frozenset(name for name in ("bitsandbytes", "torchao") if find_spec(name))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(device, packages, run is not None and any((run.folder / "checkpoints").glob("step-[0-9]*")))


@dataclass(frozen=True)
class Rung:
    """One way to need less memory. take: the settings it changes, {} when it cannot be taken (again)."""

    name: str
    take: Callable[[Settings, Have], Mapping[str, Any]]


def free_encoders(settings: Settings, have: Have) -> Mapping[str, Any]:
    """Text encoders and autoencoder leave the device while the adapter trains."""
    return {} if settings.free_encoders else {"free_encoders": True}


def gradient_checkpointing(settings: Settings, have: Have) -> Mapping[str, Any]:
    """Activations are computed again instead of kept."""
    return {} if settings.gradient_checkpointing else {"gradient_checkpointing": True}


def micro_batch(settings: Settings, have: Have) -> Mapping[str, Any]:
    """The batch divided by its smallest prime factor, so many times more losses per step."""
    factor = next((number for number in range(2, settings.batch + 1) if settings.batch % number == 0), 1)
    return {"batch": settings.batch // factor, "accumulate": settings.accumulate * factor} if factor > 1 else {}


def eight_bit(settings: Settings, have: Have) -> Mapping[str, Any]:
    """8-bit moments; a checkpoint's 32-bit ones could not be carried over."""
    possible = have.device == "cuda" and "bitsandbytes" in have.packages and not have.checkpoint
    return {"optimizer": "adamw8bit"} if possible and settings.optimizer == "adamw" else {}


def quantised(settings: Settings, have: Have) -> Mapping[str, Any]:
    """The frozen network's linear layers in 8 bits. 4 bits change the model too much to be taken unasked."""
    possible = "torchao" in have.packages and not trains_base(settings.adapter)
    return {"quantize": "int8"} if settings.quantize == "no" and possible else {}


def offload(settings: Settings, have: Have) -> Mapping[str, Any]:
    """The frozen network waits in main memory and comes layer by layer; on a CPU it lies there anyway."""
    impossible = have.device == "cpu" or settings.quantize != "no" or bool(reads_weights(settings.adapter))
    impossible = impossible or trains_base(settings.adapter)
    return {} if settings.offload or impossible else {"offload": True}


LADDER = (
    Rung("free the encoders while training", free_encoders),
    Rung("gradient checkpointing", gradient_checkpointing),
    Rung("a smaller batch with more accumulation, the same effective batch", micro_batch),
    Rung("an 8-bit optimizer", eight_bit),
    Rung("a quantised base model", quantised),
    Rung("offload the base model", offload),
)


def rungs(config: RunConfig, have: Have) -> Iterator[tuple[RunConfig, str]]:
    """The config after each rung that can be taken now, in the ladder's order, with a sentence."""
    for rung in LADDER:
        if changes := rung.take(config.settings, have):
            said = ", ".join(f"{key} = {value}" for key, value in changes.items())
            settings = config.settings.model_copy(update=dict(changes))
            yield config.model_copy(update={"settings": settings}), f"{rung.name} ({said})"


def next_rung(config: RunConfig, have: Have, cost: Cost | None = None) -> tuple[RunConfig, str] | None:
    """The first rung that can be taken and that, by the plan's `cost`, helps; None at the ladder's end."""
    before = cost(config) if cost else 0
    return next((found for found in rungs(config, have) if cost is None or cost(found[0]) < HELPS * before), None)


def until_it_fits(config: RunConfig, have: Have, cost: Cost, free: int) -> tuple[RunConfig, list[str], int]:
    """Down the ladder until the plan fits into `free` bytes, or to its end: config, sentences, predicted bytes."""
    said: list[str] = []
    while cost(config) > free and (found := next_rung(config, have, cost)):
        config, sentence = found
        said.append(sentence)
    return config, said, cost(config)


def short(error: BaseException) -> bool:
    """Whether an error says that memory (not the disk) ran out."""
    if isinstance(error, DiskFull):
        return False
    words = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS)
    return isinstance(error, MemoryShortage | MemoryError) or words


def retrying(
    once: Callable[[RunConfig, bool], T], config: RunConfig, run: Run, say: Say, cost: Cost | None = None
) -> T:
    """`once(config, accept)`; where memory runs out, once more after the next rung, from the newest checkpoint.

    The rung is announced, written in run.toml and remembered: the same command goes on with it. Raises
    MemoryShortage with what would fit when that is not enough either. accept: a changed config is meant.
    """
    config = remembered(run, config)
    try:
        return once(config, False)
    except (MemoryShortage, MemoryError, RuntimeError) as problem:
        if not short(problem):
            raise
        reason = " ".join(str(problem).split())
    release()  # outside of the handler: the error's frames held the run's tensors
    found = next_rung(config, Have.here(run), cost)
    if found is None:
        raise MemoryShortage(f"{reason}; every rung of the ladder is taken: use a smaller resolution or model")
    new, sentence = found
    say("warning", message=f"memory ran out ({reason.partition(';')[0]}): once more with {sentence}")
    write(run, config, new, sentence, say)
    try:
        return once(new, True)
    except (MemoryShortage, MemoryError, RuntimeError) as problem:
        if not short(problem):
            raise
        reason = " ".join(str(problem).split()).partition(";")[0]
    release()
    raise MemoryShortage(f"{reason}, even with {sentence}; {advice(new, Have.here(run), cost)}")


def advice(config: RunConfig, have: Have, cost: Cost | None) -> str:
    """What would fit, by the plan where there is one; else the rungs that are left. config: what just did not fit."""
    left = [sentence for _, sentence in rungs(config, have)]
    if cost is None:
        return f"try {left[0]}" if left else "use a smaller resolution or model"
    from studio import memory
    from studio.plan_time import default_device

    found = next_rung(config, have, cost)
    if found is None:
        return "every rung of the ladder is taken: use a smaller resolution or model"
    free = memory.left(default_device())
    _, said, size = until_it_fits(found[0], have, cost, free)  # not what was just seen to fail, whatever was planned
    figures = f"{size / 2**30:.1f} GiB predicted, {free / 2**30:.1f} GiB free"
    if size <= free:
        return f"by the plan this fits: {'; '.join([found[1], *said])} ({figures})"
    return f"by the plan no rung fits ({figures}): use a smaller resolution or model"


def write(run: Run, old: RunConfig, new: RunConfig, sentence: str, say: Say) -> None:
    """The rung in run.toml, and in the events as {setting: [before, after]}."""
    before, after = flat(old), flat(new)
    changes = {key: [before[key], value] for key, value in after.items() if before[key] != value}
    if run.config_file.exists():
        there = new.resolved(run.name, run.folder.parent)
        run.write("run.toml", update_toml(run.config_file.read_text("utf-8"), there))
    say(EVENT, message=sentence, changes=changes)


def remembered(run: Run, config: RunConfig) -> RunConfig:
    """The config after the rungs an earlier start took: where it says what was said then, it means what was done."""
    for event in run.events():
        if event.event == EVENT:
            now, changes = flat(config), event.fields.get("changes", {})
            if all(now.get(key) == old for key, (old, _) in changes.items()):
                update = {key.removeprefix("settings."): new for key, (_, new) in changes.items()}
                settings = config.settings.model_copy(update=update)
                config = config.model_copy(update={"settings": settings})
    return config


def release() -> None:
    """Give memory back: what only circles hold, and what torch keeps for later."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def refuse(settings: Settings, device: str) -> None:
    """UsageError for settings that cannot be together or here."""
    if settings.offload and device == "cpu":
        raise UsageError("offload: on a CPU the model lies in main memory anyway; leave it off")
    if settings.offload and settings.quantize != "no":
        raise UsageError("offload and quantize exclude each other: a quantised model is small enough to stay")
    if settings.offload and (what := reads_weights(settings.adapter)):
        raise UsageError(f"offload: {what} needs the frozen weights themselves; leave one of the two out")


def trains_base(adapter: Any) -> bool:
    """Whether the adapter learns in the base model's own weights."""
    return not hasattr(adapter, "rank")


def reads_weights(adapter: Any) -> str:
    """The setting of an adapter that needs the frozen weights at hand; "" where there is none."""
    if getattr(adapter, "dora", False):
        return "adapter.dora"
    family = getattr(adapter, "family", "lora")
    return f"adapter.family = {family}" if family in ("loha", "lokr") else ""
