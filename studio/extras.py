"""Optional packages, and for each the question that shows whether its function answers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def step_of(optimizer: Any) -> str:
    """One step of an optimizer class on one parameter: it has to move."""
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.nn.Parameter(torch.ones(64, 64, device=place))
    made = optimizer([weight], lr=0.1)
    if hasattr(made, "train"):
        made.train()
    for _ in range(2):
        weight.square().sum().backward()
        made.step()
    if not (weight != 1).any():
        raise RuntimeError("a step did not move the weights")
    return "takes a step"


def triton_answers() -> str:
    """A kernel compiled for the GPU; without a GPU there is nothing to ask."""
    import torch

    importlib.import_module("triton")
    if not torch.cuda.is_available():
        return "imports; its kernels need a GPU"
    doubled = torch.compile(lambda x: x * 2)(torch.ones(8, device="cuda"))
    if float(doubled.sum()) != 16:
        raise RuntimeError("a compiled kernel is wrong")
    return "a compiled kernel answers"


def optimizer_answers(module: str, name: str) -> Callable[[], str]:
    """The question whether an optimizer of a package takes a step."""
    return lambda: step_of(getattr(importlib.import_module(module), name))


EXTRAS: tuple[tuple[str, str, Callable[[], str], str], ...] = (
    ("bitsandbytes", "bitsandbytes", optimizer_answers("bitsandbytes.optim", "AdamW8bit"), "optimizers"),
    ("prodigy", "prodigyopt", optimizer_answers("prodigyopt", "Prodigy"), "optimizers"),
    ("schedulefree", "schedulefree", optimizer_answers("schedulefree", "AdamWScheduleFree"), "optimizers"),
    ("triton", "triton", triton_answers, ""),
)
