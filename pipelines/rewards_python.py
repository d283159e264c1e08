"""A Python function as a term of a reward: `package.module:function`.

It is called as function(images, prompts, references): pictures `[B, 3, H, W]` float32 in 0..1, a list of B texts, and a
list of the subject's pictures `[3 or 4, h, w]` or None. It returns B numbers: a tensor, an array or a list; NaN for a
picture that it cannot score. With `function.differentiable = True` gradients flow through it into the pictures.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from studio.pipelines.errors import StudioError, UsageError
from studio.pipelines.protocols import About
from studio.pipelines.rewards_terms import Term, nearest

CALLED = "images, prompts, references"


class Callable:
    """A function as a scorer. Raises UsageError for one that is not there, that fails, or returns something else."""

    def __init__(self, term: Term) -> None:
        self.term, self.function = term, found(term)
        self.differentiable = getattr(self.function, "differentiable", False) is True
        self.about = About(term.name, "", "none", f"python: {term.name}")

    def __call__(
        self, images: Tensor, prompts: Sequence[str] = (), references: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`[B]` float32."""
        follows = self.differentiable and images.requires_grad and torch.is_grad_enabled()
        near = None if references is None else [picture.clone() for picture in references]
        try:
            with torch.set_grad_enabled(follows):
                # its own copy: what it changes in place is no other term's business
                answer = self.function(images.clone() if follows else images.detach().clone(), list(prompts), near)
        except (StudioError, MemoryError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:  # a stranger's code raises anything, and ends no run by sys.exit
            raise self.refused(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        values = self.tensor(answer, len(images))
        if follows and not values.requires_grad:
            raise self.refused("it says that it is differentiable, and its numbers have no gradient")
        return values if follows else values.detach()

    def tensor(self, answer: Any, count: int) -> Tensor:
        """The answer as `[count]` float32."""
        try:
            values = answer if isinstance(answer, Tensor) else torch.as_tensor(answer)
            values = values.float()
        except (TypeError, ValueError, RuntimeError):
            raise self.refused(f"it returned {type(answer).__name__}, not {count} numbers") from None
        if values.shape != (count,):
            raise self.refused(f"it returned numbers of shape {list(values.shape)} for {count} pictures, not [{count}]")
        return values

    def refused(self, reason: str) -> UsageError:
        """That the function does not do as a reward."""
        return UsageError(f"reward term '{self.term.said}': {reason}")


def found(term: Term) -> Any:
    """The function of `package.module:function`. Raises UsageError."""
    module, _, name = term.name.partition(":")
    try:
        holder = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a stranger's module raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "; its folder must be on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(f"reward term '{term.said}': {module} does not import: {reason}{hint}") from error
    function = getattr(holder, name, None)
    if not callable(function):
        near = nearest(name, [key for key in vars(holder) if not key.startswith("_")])
        raise UsageError(f"reward term '{term.said}': {module} has no function '{name}'{near}")
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError as error:
        raise UsageError(f"reward term '{term.said}': {error}; it is called as {name}({CALLED})") from None
    except ValueError:  # of something that is not written in Python nothing is known before it is called
        pass
    return function
