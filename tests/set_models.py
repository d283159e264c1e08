"""Random weights of the true architectures for the scorers of sets, written as their publishers name the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from studio.pipelines.encoders.perceptual import Name, empty
from tests import encoders


def backbone(folder: Path, name: Name = "alex") -> Path:
    """The convolutions of AlexNet or VGG16 with torchvision's names, random and of a size that keeps signals alive."""
    file = folder / f"random-{name}.safetensors"
    if not file.is_file():
        draw = torch.Generator().manual_seed(7)
        tensors = {}
        for key, value in empty(name).state_dict().items():
            spread = (2 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.05
            tensors[f"features.{key}"] = torch.randn(value.shape, generator=draw) * spread
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, file)
    return file


def alexnet(folder: Path) -> dict[str, Any]:
    """Settings of `lpips` that work offline."""
    return {"weights": str(backbone(folder))}


def frechet(folder: Path) -> dict[str, Any]:
    """Settings of `frechet` that work offline, for a handful of pictures."""
    target = folder / "tiny_dinov2"
    return {"encoder": str(target if target.is_dir() else encoders.tiny_dinov2(target)), "few": True}
