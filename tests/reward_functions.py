"""Functions as terms of a reward, right ones and wrong ones, and a scorer as another package would bring it."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

NUMBER = 3


def brightness(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """Mean of all values: 0 for black, 1 for white."""
    return images.mean((1, 2, 3))


brightness.differentiable = True  # type: ignore[attr-defined]


def contrast(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """A thousand times the variance: another range."""
    return 1000 * images.flatten(1).var(1)


contrast.differentiable = True  # type: ignore[attr-defined]


def words(images: Tensor, prompts: list[str], references: Any) -> list[int]:
    """How many letters a prompt has."""
    return [len(prompt) for prompt in prompts]


def of_two(images: Tensor, prompts: list[str]) -> Tensor:
    """Without the references it is called with."""
    return images.mean((1, 2, 3))


def dark(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """Brightness of dark pictures; NaN for others."""
    values = images.mean((1, 2, 3))
    return torch.where(values < 0.5, values, torch.nan)


dark.differentiable = True  # type: ignore[attr-defined]


def greedy(images: Tensor, prompts: list[str], references: Any) -> Any:
    """Changes what it is given."""
    images.zero_()
    prompts.clear()
    return images.mean((1, 2, 3)).numpy()


def detached(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """Says what is not true."""
    return images.detach().mean((1, 2, 3))


detached.differentiable = True  # type: ignore[attr-defined]


def one(images: Tensor, prompts: list[str], references: Any) -> float:
    """One number for all pictures."""
    return 1.0


def column(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """`[B, 1]`."""
    return images.mean((1, 2, 3))[:, None]


def text(images: Tensor, prompts: list[str], references: Any) -> list[str]:
    """No numbers."""
    return prompts


def broken(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """Fails."""
    raise KeyError("a reason\nin two lines")


def leaving(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """Ends the program as if all were well."""
    sys.exit(0)


def interrupted(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """A person stops the program meanwhile."""
    raise KeyboardInterrupt


def never(images: Tensor, prompts: list[str], references: Any) -> Tensor:
    """A number for no picture."""
    return torch.full((len(images),), torch.nan)


SCORER = '''
    """Gap: mean distance of a picture's brightness from the references'."""

    import torch

    from studio.pipelines.encoders.base import given
    from studio.pipelines.protocols import About
    from studio.pipelines.settings import Part


    class Config(Part):
        """Nothing to set but a factor."""

        factor: float = 1.0


    class Gap:
        """Lower is better."""

        differentiable = True
        about = About("gap", "", "none", "gap", better="lower", needs=("references",))

        def __init__(self, factor):
            self.factor = factor

        def __call__(self, images, prompts=(), references=None):
            near = torch.stack([picture[:3].mean() for picture in given(references, "gap")]).mean()
            return self.factor * (images.mean((1, 2, 3)) - near).abs()


    def build(config, device, dtype):
        """gap."""
        return [Gap(config.factor)]
'''
