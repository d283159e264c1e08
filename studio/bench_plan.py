"""Predicted against measured peak memory, each config in a process of its own: `python -m studio.bench plan`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from studio import loop, memory, plan, plan_time, previews, registry, subjects
from studio.config import RunConfig, make
from studio.peaks import Peaks
from studio.pipelines import attention, backbone
from studio.pipelines.adapters import together
from studio.pipelines.cache import Cache, Embeddings
from studio.pipelines.data import DataStream
from studio.precision import dtype

CONFIGS: dict[str, dict[str, Any]] = {
    "batch 1": {"batch": 1},
    "batch 8": {"batch": 8},
    "batch 8, gradient checkpointing": {"batch": 8, "gradient_checkpointing": True},
    "batch 64": {"batch": 64},
    "batch 64, gradient checkpointing": {"batch": 64, "gradient_checkpointing": True},
}
# nothing was fitted to these
HELD_OUT: dict[str, dict[str, Any]] = {
    "batch 4, rank 64": {"batch": 4, "adapter": {"rank": 64}},
    "batch 24": {"batch": 24},
    "batch 32, gradient checkpointing": {"batch": 32, "gradient_checkpointing": True},
}
ADDED = ("activations", "gradients", "libraries", "optimizer", "ema", "before the step")
STEPS = 3
Row = dict[str, dict[str, int]]


def config(settings: dict[str, Any], model: str = "embedded") -> RunConfig:
    """The demo's subject with other settings."""
    data = {"folder": "subject:fox"}
    found = make("dreambooth", flags={"model": model, "settings": {"steps": STEPS, **settings, "data": data}})
    return subjects.resolve(found)


def measure(wanted: RunConfig, folder: Path) -> Row:
    """Phase -> predicted, measured and (at its start) before, in bytes, from running the phases in this process."""
    settings = wanted.settings
    device = plan_time.default_device()
    model = backbone.load(wanted.model, device, dtype(settings, device))
    dataset = settings.data.read(model)
    attention.install(model.net, settings.attention)
    adapter = together.build(settings.adapter, settings.tokens, model, dataset)
    made = plan.of(wanted, model)
    peaks, before = Peaks(device), {}

    def enter(phase: str) -> None:
        peaks.enter(phase)
        before[phase] = memory.held(device)

    enter("cache")
    stream = DataStream(model, dataset, batch=settings.batch, seed=0, cache=Cache(folder))
    for _ in stream.fill():
        pass
    model.embed = Embeddings(model, folder)  # type: ignore[method-assign]
    model.embed(dataset.captions)
    enter("train")
    losses = registry.trainer(wanted.trainer).losses(settings, model, adapter, stream, {})
    for _ in islice(loop.train(settings, model, adapter, losses, {}), STEPS):
        pass
    enter("preview")
    shots = previews.shots(settings.previews, dataset)
    few = settings.previews.model_copy(update={"steps": 2})
    for _ in previews.take(model, shots, few):
        pass
    peaks.end()
    predicted = made.predicted()
    parts = made.phase("train").parts
    work = sum(size for part, size in parts.items() if part in ADDED)
    row = {
        name: {"predicted": predicted[name], "measured": peak, "before": before[name]}
        for name, peak in peaks.found.items()
    }
    row["train"]["work"] = work
    return row


def apart(name: str) -> Row:
    """`measure` in a fresh process."""
    command = [sys.executable, "-m", "studio.bench_plan", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def error(row: dict[str, int]) -> float:
    """Relative error of the prediction."""
    return row["predicted"] / row["measured"] - 1


def run(console: Console) -> None:
    """Print the table."""
    console.print(f"on {plan_time.device_name(plan_time.default_device())}; MiB: predicted, measured, error")
    for name in CONFIGS | HELD_OUT:
        row = apart(name)
        cells = [
            f"{phase} {one['predicted'] / 2**20:.0f} {one['measured'] / 2**20:.0f} {error(one):+.1%}"
            for phase, one in row.items()
        ]
        train = row["train"]
        grown = train["measured"] - train["before"]
        cells.append(f"training alone {train['work'] / 2**20:.0f} {grown / 2**20:.0f} {train['work'] / grown - 1:+.1%}")
        console.print(f"{name}{' (held out)' if name in HELD_OUT else ''}: {'; '.join(cells)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(measure(config((CONFIGS | HELD_OUT)[sys.argv[1]]), Path(place))))
