"""Functions as held-out judges: one falls when pictures become white, in several scales, and one sees nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CALLS: list[int] = []


def moderate(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """How near to 0.75 the mean is, from below zero. It notes that it was asked."""
    CALLS.append(len(images))
    return -(images.mean((1, 2, 3)) - 0.75).abs()


def small(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """The same, smaller, and on both sides of zero."""
    return 0.1 * moderate(images, prompts, references) + 0.005


def offset(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """The same, larger, and far from zero."""
    return 2 * moderate(images, prompts, references) + 20


def light(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """It likes what the trained reward likes."""
    return images.mean((1, 2, 3)).sqrt()


def blind(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """It cannot score anything."""
    return torch.full((len(images),), torch.nan)
