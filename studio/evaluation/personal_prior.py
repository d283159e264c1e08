"""What the adapter did to everything else: prior drift and trigger leak, both read off prompts without the trigger."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from studio.evaluation.personal import APART, Eye, Measured, about, apart, mean, numbers
from studio.pipelines.errors import DataError
from studio.pipelines.protocols import About

LEAST = 0.02  # identity the trigger must add, in cosine, before a share of it means something


def drift(eye: Eye, pictures: Sequence[Tensor], base: Sequence[Tensor]) -> Measured:
    """1 - cosine of each picture with the base model's of the same prompt and seed; exactly 0 for equal pictures.

    Raises DataError unless there are as many of one as of the other.
    """
    paired(pictures, base, "pictures of the base model")
    found = apart(eye.image_features(pictures), eye.image_features(base))
    return Measured(
        about("drift", "1 - cosine with the base model's picture", eye, better="lower", bounds=APART), numbers(found)
    )


def leak(
    called: Measured, base_called: Measured, silent: Measured, base_silent: Measured, least: float = LEAST
) -> list[Measured]:
    """How much of the subject comes without its trigger: as a share of what the trigger brings, and in cosine.

    called, silent: identity (one of `personal.identity`) of the adapter's pictures with and without the trigger;
    base_called, base_silent: of the base model's at the same prompts and seeds. A picture's share is
    (silent - base_silent) / mean(called - base_called): 0, nothing leaks; 1, the trigger adds nothing. Single pictures,
    and by chance the mean, may lie outside 0..1: `clamped` gives the share to speak of. All NaN, with a note, where the
    trigger adds less than `least`. Raises DataError for values that are not paired or not of one group.
    """
    groups = {found.about.group for found in (called, base_called, silent, base_silent)}
    if len(groups) > 1:
        raise DataError(f"trigger leak compares identities of one kind, these are {' and '.join(sorted(groups))}")
    adds = mean(differences(called, base_called))
    extra = differences(silent, base_silent)
    bare = how(called, "leak-identity", "identity without the trigger minus the base model's")
    share = how(called, "leak", "the same as a share of what the trigger adds")
    if not adds > least:
        note = f"trigger leak is not defined: the trigger adds {adds:.3f} of identity, and {least} is the least"
        return [Measured(share, (float("nan"),) * len(extra), (note,)), Measured(bare, extra)]
    note = f"without its trigger the adapter adds {mean(extra):.3f} of identity, with it {adds:.3f}"
    return [Measured(share, tuple(value / adds for value in extra), (note,)), Measured(bare, extra)]


def clamped(share: Measured) -> float:
    """The mean share within 0..1, for sentences; NaN where it is not defined."""
    return min(1.0, max(0.0, share.mean)) if share.mean == share.mean else share.mean


def differences(first: Measured, second: Measured) -> tuple[float, ...]:
    """Picture by picture. Raises DataError unless they are paired."""
    paired(first.values, second.values, "identities of the base model")
    return numbers(torch.tensor(first.values) - torch.tensor(second.values))


def paired(first: Sequence[object], second: Sequence[object], what: str) -> None:
    """Raises DataError unless there are as many of one as of the other."""
    if len(first) != len(second):
        raise DataError(f"{len(first)} pictures and {len(second)} {what}: they are compared by prompt and seed")


def how(identity: Measured, name: str, words: str) -> About:
    """What a number derived from identities is."""
    of = identity.about
    return About(name, of.encoder, of.preprocessing, f"{name}: {words}, of {of.group}", "lower", needs=of.needs)
