"""A look from aside: it changes nothing of the run, and all processes have seen the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from studio.pipelines.reward_guard_look import Look


def agreed(look: Look) -> Look:
    """The first process's look, so that all of them go on or back together."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return look
    found = [look.pack()]
    distributed.broadcast_object_list(found, src=0)
    return Look.read(found[0])


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn inside, the global random generators go on where they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
