"""Memory as it is: what is free, and what this process holds."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import torch

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def resident() -> int:
    """Bytes of this process in main memory now."""
    return int(psutil.Process().memory_info().rss)


def held(device: torch.device) -> int:
    """Bytes this process holds now where `device` computes: tensors on a GPU, the whole process on a CPU."""
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else resident()


def free(device: torch.device) -> int:
    """Bytes that a run in this process can have at most where `device` computes, with what it holds already."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    return min(psutil.virtual_memory().available + resident(), limit(), resident() + allowance())


def left(device: torch.device) -> int:
    """Bytes that this process can take beyond what it holds."""
    return free(device) - held(device)


def limit() -> int:
    """Bytes that the container may use at most; the machine's memory without one."""
    said = [text for path in LIMITS if (text := read(path)).isdigit()]
    return min([psutil.virtual_memory().total, *map(int, said)])


def allowance() -> int:
    """Bytes that the shell's limits (ulimit -v, ulimit -d) let this process take beyond what it has; many without."""
    if resource is None:
        return sys.maxsize
    has = psutil.Process().memory_info()
    kinds = {resource.RLIMIT_AS: has.vms, resource.RLIMIT_DATA: getattr(has, "data", has.vms)}
    limits = [(resource.getrlimit(kind)[0], taken) for kind, taken in kinds.items()]
    return min([max(0, most - taken) for most, taken in limits if most != resource.RLIM_INFINITY], default=sys.maxsize)


def read(path: Path) -> str:
    """A small system file's text, '' where there is none."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
