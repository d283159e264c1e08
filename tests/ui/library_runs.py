"""Run folders for the library's tests: the files that a run leaves, written by the studio's own writers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from studio import events
from studio.events import Event
from studio.store import Run, Store
from tests import runs as toy

SAID = {"trigger": "sks", "class_word": "dog", "base_model": "toy"}


def picture(path: Path, noise_of: int = 0, side: int = 16, **about: str) -> Path:
    """A PNG of noise that says what it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    for key, value in about.items():
        info.add_itxt(key, value)
    noise = np.random.default_rng(noise_of).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, pnginfo=info)
    return path


def run(runs: Path, name: str, prompts: int = 2, trigger: str = "sks", finished: bool = True) -> Run:
    """A toy run's folder: config, events, previews beside the base model's, and the adapter if it is finished."""
    data = toy.pictures(runs.parent / "data", 1) if not (runs.parent / "data").exists() else runs.parent / "data"
    made = Store(runs).create(toy.config(data, runs, name))
    log = made.folder / "events.jsonl"
    events.append(log, Event("train", 1, {"loss": 0.5}))
    for at in range(prompts):
        prompt = f"a {trigger} dog number {at}"
        picture(made.folder / "samples" / f"base-{at:02}.png", at, prompt=prompt, seed="7")
        picture(made.folder / "samples" / f"000007-{at:02}.png", 100 + at, prompt=prompt, seed="7")
    if finished:
        weights = {"unet.x.lora_A.weight": np.zeros((2, 2), np.float32)}
        said = SAID | {"trigger": trigger}
        save_file(weights, made.folder / "adapter.safetensors", said)
        save_file(weights, made.folder / "adapter.kohya.safetensors", said)
        events.append(log, Event("check", toy.STEPS, event="done", fields={"path": str(made.folder)}))
    return made
