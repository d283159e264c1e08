"""Frozen networks that leave the device's memory until they are called again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studio.pipelines.protocols import Backbone


class Parked(ModelHook):
    """A frozen network's weights: on the device, or aside; a call of the network brings them back by itself.

    Aside is main memory for a network on an accelerator, a file in `folder` for one on the CPU.
    """

    def __init__(self, module: nn.Module, file: Path) -> None:
        self.module, self.file = module, file
        self.aside: dict[str, Tensor] | None = None
        self.away = False
        add_hook_to_module(module, self, append=True)

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, those that are in no state dict included, each once."""
        return dict((*self.module.named_parameters(), *self.module.named_buffers()))

    def park(self) -> None:
        """Empties the network's memory; nothing happens when it is empty."""
        if self.away:
            return
        tensors = self.tensors()
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if all(tensor.device.type == "cpu" for tensor in tensors.values()):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(kept, self.file)
        else:
            self.aside = kept
        for tensor in tensors.values():
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        self.away = True

    def back(self) -> None:
        """Fills the network's memory again with the same bits."""
        if not self.away:
            return
        kept = load_file(self.file) if self.aside is None else self.aside
        for name, tensor in self.tensors().items():
            tensor.data = kept[name].to(tensor.device)
        self.aside, self.away = None, False
        with suppress(OSError):
            self.file.unlink()

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.back()
        return args, kwargs


def encoders(model: Backbone, folder: Path) -> list[Parked]:
    """The model's text encoders that do not learn and its autoencoder, ready to be parked below `folder`.

    Their fingerprints are taken now: an empty network has none.
    """
    model.text_fingerprint(), model.vae_fingerprint()
    parts = {**model.text_encoders, "vae": getattr(model, "vae", None)}
    still = {name: part for name, part in parts.items() if part is not None and frozen(part)}
    return [Parked(part, folder / f"parked-{name}.safetensors") for name, part in still.items()]


def frozen(module: nn.Module) -> bool:
    """Whether nothing in it learns."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def park(parked: Iterable[Parked]) -> None:
    """Empties all of them: at the start of training, and after previews on the way."""
    for one in parked:
        one.park()
