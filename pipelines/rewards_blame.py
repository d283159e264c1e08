"""Which term of a reward has a gradient that is not finite: the step that is refused for it should name the term."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor


def shielded(pictures: Tensor, good: Tensor) -> None:
    """No gradient comes back into rows of `pictures` `[B, ...]` that are not `good` `[B]`: not even 0 times NaN."""
    if pictures.requires_grad:
        rows = good.view(-1, *[1] * (pictures.dim() - 1))
        pictures.register_hook(lambda gradient: torch.where(rows, gradient, 0.0))


class Watch:
    """Watches the gradients that terms give to a batch of pictures. good: the rows that will count, `[B]`."""

    seen: ClassVar[dict[str, Tensor]] = {}  # by term, whether any was not finite: read from the device when asked for

    def __init__(self) -> None:
        self.good: Tensor | None = None

    def __call__(self, label: str, pictures: Tensor) -> Tensor:
        """The pictures `[B, 3, H, W]` for the term `label`."""
        if not (pictures.requires_grad and torch.is_grad_enabled()):
            return pictures
        shown = pictures.view_as(pictures)

        def note(gradient: Tensor) -> None:
            if type(gradient) is not Tensor:  # a plan's rehearsal computes nothing
                return
            fine = gradient.isfinite().flatten(1).all(1)
            bad = (~fine if self.good is None else ~fine & self.good).any()
            Watch.seen[label] = bad | Watch.seen[label].to(bad.device) if label in Watch.seen else bad

        shown.register_hook(note)
        return shown


def culprits() -> list[str]:
    """The terms whose gradients were not finite since this was last asked."""
    found = [label for label, bad in Watch.seen.items() if bad]
    Watch.seen.clear()
    return found
