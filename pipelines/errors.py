"""Errors a person can act on. Each carries the process's exit code; the command line prints its one line."""

from __future__ import annotations

import errno

EXITS = {
    0: "done",
    1: "a fault of the studio's own; `studio report RUN` makes the file for a bug report",
    2: "usage: a wrong word in the command or the config",
    3: "data: something about the pictures or their captions, or no room on disk for what a run would write",
    4: "memory or disk ran out; what was finished is kept",
    5: "numbers: a loss, gradient or weight that is not finite, or a tensor that does not learn",
    6: "model files: missing, damaged, refused or of another family; or a judge that scores nothing",
    130: "stopped; the same command goes on from the last step that was saved",
}
FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})  # a full disk has three names


class StudioError(Exception):
    """What, where and what to do, in one line."""

    exit_code = 1


class UsageError(StudioError):
    """A wrong word in the command or the config."""

    exit_code = 2


class DataError(StudioError):
    """Something about the pictures."""

    exit_code = 3


class DiskError(StudioError):
    """The disk has no room for what a run would write; nothing was written."""

    exit_code = 3


class MemoryShortage(StudioError):
    """Not enough memory, or a disk that became full; what was finished is kept."""

    exit_code = 4


class NumericalError(StudioError):
    """A loss, gradient or weight that is not finite."""

    exit_code = 5


class ModelError(StudioError):
    """Something about the model files."""

    exit_code = 6


def is_full(error: OSError) -> bool:
    """Whether an error says that the disk, or somebody's share of it, is full."""
    return error.errno in FULL or "No space left" in str(error)
