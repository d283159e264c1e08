"""Errors a person can act on. Each carries the process's exit code; the command line prints its one line."""

from __future__ import annotations


class StudioError(Exception):
    """What, where and what to do, in one line."""

    exit_code = 1


class UsageError(StudioError):
    """A wrong word in the command or the config."""

    exit_code = 2


class DataError(StudioError):
    """Something about the pictures."""

    exit_code = 3


class MemoryShortage(StudioError):
    """Not enough memory or disk; what was finished is kept."""

    exit_code = 4


class NumericalError(StudioError):
    """A loss, gradient or weight that is not finite."""

    exit_code = 5


class ModelError(StudioError):
    """Something about the model files."""

    exit_code = 6
