"""What a run will take before it starts: peak memory of each phase, disk, time; and whether it fits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from studio import cores, memory, plan_choice, plan_disk, plan_time, precision, start
from studio.config import RunConfig
from studio.pipelines import twin
from studio.pipelines.protocols import Backbone
from studio.plan_live import nbytes
from studio.plan_rehearsal import Rehearsal
from studio.plan_weights import AFTER_TRAINING, Weights

PICTURES = 8  # the sampler's own batch (pipelines/sampling.py)
SCORED = 32  # pictures at a time when an embedded subject's run is scored (studio/scores.py)
# measured on the embedded base (assets/benchmarks/plan.md): what libraries allocate beyond the tensors asked for
# the CUDA figures are not measured yet; on a CPU the heap keeps much of what operations allocate inside and free
WORKSPACE = {"cpu": 1.7, "cuda": 1.1}
CHECKPOINTED = {"cpu": 1.0, "cuda": 1.0}  # with gradient checkpointing the peak is one block's, made and freed alone
FIXED = ("process", "libraries")  # parts no setting changes
LIBRARIES = {"cpu": 72 * 2**20, "cuda": 32 * 2**20}  # thread stacks, compiled kernels, matrix library workspaces

__all__ = ["Phase", "Plan", "of", "training"]


@dataclass(frozen=True)
class Phase:
    """Peak bytes of one phase, by what takes them."""

    name: str
    parts: dict[str, int]

    @property
    def peak(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """The prediction: bytes on `device` per phase, bytes of disk by kind, seconds.

    free: bytes the run can have; speed: where `step` (seconds per step) comes from; notes: what stands on a guess;
    room: free bytes where the run will lie, 0 where nobody says.
    """

    device: str
    free: int
    phases: tuple[Phase, ...]
    disk: dict[str, int]
    step: float
    total: float
    speed: str
    notes: tuple[str, ...] = field(default=())
    room: int = 0

    def phase(self, name: str) -> Phase:
        """The phase of a name."""
        return next(phase for phase in self.phases if phase.name == name)

    @property
    def peak(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.peak)

    @property
    def fits(self) -> bool:
        return self.peak.peak <= self.free

    @property
    def full(self) -> bool:
        """Whether the disk has no room for what the run writes."""
        return 0 < self.room < sum(self.disk.values())

    def predicted(self) -> dict[str, int]:
        """Peak bytes by phase."""
        return {phase.name: phase.peak for phase in self.phases}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "fits": self.fits, "peak": self.peak.peak, "predicted": self.predicted()}


def of(config: RunConfig, model: Backbone | None = None, loaded: int = 0) -> Plan:
    """The plan of a run, without computing and without reading weights.

    model: the loaded one with its adapter, which is only looked at; without it, one is made from config files.
    loaded: bytes of it that this process holds already. Raises UsageError and ModelError as the run would.
    """
    cores.share()
    device = plan_time.default_device()
    if model is None:
        model = hollow(config, device)
    else:
        loaded = loaded or nbytes(twin.tensors(model))
    rehearsal = Rehearsal(config, model, device)
    weights = Weights.of(config, model)
    train, flops = rehearsal.train()
    shots = plan_disk.shots(config)
    preview, drawing = rehearsal.sample(min(PICTURES, shots))
    cache = rehearsal.cache()[0]
    if plan_disk.makes_class_pictures(config):
        cache = max(cache, rehearsal.sample(PICTURES)[0])
    check = rehearsal.sample(SCORED)[0] if plan_disk.scored(config) else preview
    worked = {"load": 0, "cache": cache, "train": train, "preview": preview, "export": 0, "check": check}
    # on a CPU the process itself counts, with every library that is loaded by now
    baseline = memory.resident() - loaded if device.type == "cpu" else 0
    phases = [phase(name, peak, weights, device, baseline, config) for name, peak in worked.items()]
    if device.type == "cpu":
        phases = heaped(phases)
    seconds, speed = plan_time.step(config, flops * config.settings.accumulate, device, model.dtype)
    count = shots * plan_disk.rounds(config) + plan_choice.pictures(config)
    each, step_flops = drawing / min(PICTURES, shots), flops * config.settings.accumulate
    drawn = plan_time.pictures(config, count, each, step_flops, seconds)
    return Plan(
        device=plan_time.device_name(device),
        free=memory.free(device),
        phases=tuple(phases),
        disk=plan_disk.disk(config, model, weights),
        step=seconds,
        total=config.settings.steps * seconds + drawn,
        speed=speed,
        notes=tuple(rehearsal.notes),
        room=plan_disk.room(config.runs.absolute()),
    )


def heaped(phases: list[Phase]) -> list[Phase]:
    """Phases of one process on a CPU: after training its heap hardly shrinks, so that later phases are as large."""
    found: list[Phase] = []
    for one in phases:
        left = found[-1].peak - one.peak if found and one.name in AFTER_TRAINING and one.name != "train" else 0
        found.append(Phase(one.name, one.parts | ({"left from training": left} if left > 0 else {})))
    return found


def training(config: RunConfig) -> int:
    """Predicted peak bytes of the training phase alone, from config files, without FIXED parts: what rungs change."""
    device = plan_time.default_device()
    model = hollow(config, device)
    worked = Rehearsal(config, model, device).train()[0]
    return changeable(phase("train", worked, Weights.of(config, model), device, 0, config))


def changeable(one: Phase) -> int:
    """A phase's bytes without FIXED parts."""
    return sum(size for name, size in one.parts.items() if name not in FIXED)


def hollow(config: RunConfig, device: torch.device) -> Backbone:
    """The config's model with its adapter, without weights."""
    model = twin.hollow(config.model, precision.dtype(config.settings, device))
    with torch.device(model.device):
        start.adapter(config.settings, model, config.settings.data)
    return model


def phase(name: str, worked: int, weights: Weights, device: torch.device, baseline: int, config: RunConfig) -> Phase:
    """A phase's parts: what lies there all the time, and what its work adds at its peak."""
    parts = {"process": baseline} if baseline else {}
    parts |= weights.resident(name)
    if name == "train":
        gradients = min(weights.gradients, worked)
        parts |= {"gradients": gradients, "activations": worked - gradients}
    elif worked:
        parts["activations"] = worked
    if worked:
        again = name == "train" and config.settings.gradient_checkpointing
        factor = (CHECKPOINTED if again else WORKSPACE)[device.type]
        parts["libraries"] = int(worked * (factor - 1)) + LIBRARIES[device.type]
    return Phase(name, {key: value for key, value in parts.items() if value})
