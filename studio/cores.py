"""How many threads a process computes with on a CPU."""

from __future__ import annotations

import os

import torch

SHARES = 2  # a run, and who draws or evaluates meanwhile


def share() -> None:
    """Computes with half of the cores from now on, unless OMP_NUM_THREADS says with how many, or fewer are set.

    Where processes have more threads than there are cores, each operation waits for threads that are not at work: two
    trainings of the embedded model on two cores take 17 to 19 s a step with two threads each, and 0.27 s with one
    (alone 0.21 and 0.26 s).
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), available() // SHARES)))


def available() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
