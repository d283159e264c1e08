"""Several processes, one run: the first one leads and keeps the run's folder, the others follow step by step.

`accelerate launch` (or torchrun) starts them and tells each its number in the environment.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from studio.pipelines.errors import StudioError, UsageError

if TYPE_CHECKING:
    import torch

    from studio.pipelines.draws import Share

PATIENCE = timedelta(days=1)  # the others wait while the first one downloads, fills the cache or waits for disk


def rank() -> int:
    """This process's number; the first one is 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes train this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> Share:
    """Meets the other processes, if there are any; this one's share of every batch.

    Raises UsageError where accelerate was asked for several and has started one, which it does without a word.
    """
    from studio.pipelines.draws import ALONE, Share

    if count() == 1:
        if "RANK" not in os.environ and {"MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys():
            raise UsageError(
                "accelerate launch was asked for several processes and started one, as it does where there are not "
                "several GPUs: add --multi_gpu (it starts CPU processes too), or say --num_processes 1"
            )
        return ALONE
    import torch
    from accelerate.state import PartialState

    met = bool(PartialState._shared_state)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if not met:
        atexit.register(state.destroy_process_group)
    return Share(state.process_index, state.num_processes)


def device() -> torch.device:
    """The accelerator that is this process's, or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if count() > 1 else torch.device("cuda")


def told(folder: str = "") -> str:
    """In every process, what the first one says."""
    if count() == 1:
        return folder
    from accelerate.utils import broadcast_object_list

    return str(broadcast_object_list([folder])[0])


@contextmanager
def company() -> Iterator[None]:
    """Turns the loss of another process into one line. Raises StudioError."""
    try:
        yield
    except RuntimeError as problem:  # torch has no type of its own for a peer that went away
        if count() == 1 or not any(word in str(problem).lower() for word in ("gloo", "nccl", "peer")):
            raise
        raise StudioError(
            f"process {rank()}: another process of this run has ended, its own message says why; the newest "
            "checkpoint is kept: the same command goes on from there"
        ) from problem


@contextmanager
def leading() -> Iterator[Callable[[str], None]]:
    """For the first process: call what this yields, with the run's folder, when the others may begin.

    Left without that call (the run failed, was stopped, or is finished), the others are sent home.
    """
    said: list[str] = []

    def begin(folder: str) -> None:
        said.append(folder)
        told(folder)

    try:
        yield begin
    finally:
        if not said:
            told()
