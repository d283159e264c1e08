"""Seconds per step: from an earlier run like this one, else from operations and a measured speed."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

import torch

from studio.config import RunConfig
from studio.pipelines.errors import StudioError
from studio.store import Run, Store

SIDE = 1024  # of the matrices of the probe
SHARE = {"cpu": 0.25, "cuda": 0.35}  # of a matrix product's speed that training reaches, measured roughly
ALIKE = ("model", "trainer")
SETTINGS = ("batch", "accumulate", "gradient_checkpointing", "precision", "attention", "adapter")
STEPS = 5  # fewer steps say little


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"CPU, {count} thread{'s' * (count > 1)}"


def default_device() -> torch.device:
    """Where runs compute."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def step(config: RunConfig, flops: int, device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Seconds per optimizer step, and how we know."""
    for run in Store(config.runs).list():
        if alike(run, config) and (seconds := measured(run)):
            return seconds, f"measured in the run {run.name}"
    speed = probe(device, dtype) * SHARE[device.type]
    figures = f"{flops / 1e9:.3g} GFLOP at {speed / 1e9:.3g} GFLOP/s"
    return flops / speed, f"rough: {figures}, {SHARE[device.type]:.0%} of a matrix product's speed here"


def alike(run: Run, config: RunConfig) -> bool:
    """Whether a step of the run was a step of this config."""
    try:
        there = run.config()
    except StudioError:  # of a trainer that is gone, or from another version
        return False
    same = all(getattr(there, name) == getattr(config, name) for name in ALIKE)
    same = same and all(getattr(there.settings, name) == getattr(config.settings, name) for name in SETTINGS)
    return same and there.settings.data.resolution == config.settings.data.resolution


def measured(run: Run) -> float:
    """Median seconds between the steps of a run; 0 when it has few."""
    times = [(event.step, event.time) for event in run.events() if event.phase == "train" and event.numbers]
    gaps = [end - start for (first, start), (last, end) in pairwise(times) if last == first + 1]
    return statistics.median(gaps) if len(gaps) >= STEPS else 0.0


def probe(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a matrix product here."""
    left = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(3):
        synchronize(device)
        began = time.perf_counter()
        left @ left
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pictures(config: RunConfig, count: int, flops: float, step_flops: int, seconds: float) -> float:
    """Seconds that drawing takes, at the speed of the training steps. flops: of one sampler step of one picture."""
    if not step_flops:
        return 0.0
    return count * config.settings.previews.steps * flops / step_flops * seconds
