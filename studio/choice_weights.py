"""An adapter with a checkpoint's weights in it for a while."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio import checkpoints
from studio.checkpoints import Checkpoint
from studio.engine import Engine
from studio.pipelines.protocols import Adapter, Backbone
from studio.snapshot import State, randomness, set_randomness
from studio.trainers.base import Settings


def usable(folder: Path) -> dict[int, Checkpoint]:
    """The valid checkpoints by step, oldest first."""
    found = {}
    for step, path in checkpoints.steps(folder).items():
        if not checkpoints.damage(path):
            meta = json.loads((path / "meta.json").read_text("utf-8"))
            if any(key == "trial" for key, _ in meta["memory"]["dict"]):  # of a trainer that begins anew after it
                continue
            found[step] = Checkpoint(path, int(meta.pop("step")), meta)
    return found


@contextmanager
def holding(settings: Settings, model: Backbone, adapter: Adapter, checkpoint: Checkpoint) -> Iterator[None]:
    """Inside, the adapter has the weights that an export at the checkpoint would have (its average, where it has one).

    Afterwards adapter and random state are to the bit what they were.
    """
    before, kept = randomness(), {name: tensor.detach().clone() for name, tensor in adapter.state_dict().items()}
    try:
        engine = Engine(settings, model, adapter, {})
        engine.restore(State({name: checkpoint.tensors(name) for name in checkpoint.names()}, checkpoint.meta))
        set_randomness(before)
        with engine.averaged():
            yield
    finally:
        adapter.load_state_dict(kept)
        set_randomness(before)
