"""Several processes, one run: the first one leads and keeps the run's folder, the others follow step by step.

`accelerate launch` (or torchrun) starts them and tells each its number in the environment.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING

import psutil

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


def begin(words: Sequence[str]) -> int | None:
    """Starts the processes that `accelerate launch --num_processes N` was asked for and, without GPUs, did not start.

    words: of `studio`'s command line. Returns None when nothing was to start, else the exit code of what was done.
    """
    asked = alone_of()
    if asked < 2:
        return None
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // asked)))
    where = LaunchConfig(1, 1, asked, run_id="studio", rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    try:
        elastic_launch(where, sys.executable)("-m", "studio", *words)
    except SignalException:  # it has passed the signal on, and waited until they had saved their state
        return 130
    except ChildFailedError as problem:  # its own message has said why
        return max(problem.get_first_failure()[1].exitcode, 1)
    return 0


def end_with(parent: int) -> None:
    """Asks this process to end when its parent, accelerate's launcher, has: that one passes no signal on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def alone_of() -> int:
    """How many processes accelerate's launcher was asked for when it started this one alone; 0 when it did not.

    It starts one where there are no GPUs, and tells it nothing but the address at which the others would be met.
    """
    if "RANK" in os.environ or not {"MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys():
        return 0
    parent = psutil.Process().parent()
    asked = re.search(r"--num[_-]processes[ =](\d+)", " ".join(parent.cmdline()) if parent else "")
    return int(asked[1]) if asked else 0


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
