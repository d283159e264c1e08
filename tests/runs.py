"""Small runs on the toy model, with everything random switched on, for tests of stopping and resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

from studio.config import RunConfig, make, merge
from studio.events import Event
from studio.store import Run

STEPS = 7
HARD: dict[str, Any] = {
    "steps": STEPS,
    "precision": "no",
    "lr": 1e-2,
    "schedule": "cosine",
    "warmup": 3,
    "accumulate": 2,
    "batch": 2,
    "ema": 0.9,
    "save_every": 3,
    "adapter": {"rank": 2, "dropout": 0.2},
    "data": {"flip": True, "crop": "random", "caption_dropout": 0.4},
    "previews": {"every": 3, "steps": 2},
}


def pictures(folder: Path, count: int = 3) -> Path:
    """A folder of small pictures, taller than wide, one with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    (folder / "0.txt").write_text("a {trigger} in the snow")
    return folder


def config(data: Path, runs: Path, run: str = "one", /, **settings: Any) -> RunConfig:
    """A hard run's config, with other settings where given."""
    own = merge(merge(HARD, {"data": {"folder": data}}), settings)
    return make("dreambooth", flags={"model": "toy", "run": run, "runs": runs, "settings": own})


def files(run: Path) -> dict[str, Any]:
    """What a finished run must hold, whatever happened on the way: last checkpoint, previews, adapters.

    Of the adapters the header and the bytes of each tensor: safetensors writes a header in any order.
    """
    kept = [*run.glob(f"checkpoints/step-{STEPS:06}/*"), *run.glob("samples/*.png")]
    found: dict[str, Any] = {path.relative_to(run).as_posix(): path.read_bytes() for path in kept}
    for path in run.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            found[path.name] = file.metadata(), {key: file.get_tensor(key).tobytes() for key in sorted(file.keys())}
    return found


def numbers(run: Path) -> dict[int, dict[str, float]]:
    """The numbers of every step; where one was done again, the last ones count."""
    return {event.step: dict(event.numbers) for event in Run(run).events() if event.numbers}


def when(event: str, phase: str, step: int, act: Callable[[], object]) -> Callable[[Event], None]:
    """A report that acts once: at the first event of a name (`` for a step's numbers), phase and step."""
    done: list[bool] = []

    def report(said: Event) -> None:
        if (said.event, said.phase, said.step) == (event, phase, step) and not done:
            done.append(True)
            act()

    return report
