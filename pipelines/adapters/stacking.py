"""Adapter files under another adapter: W = W0 + s1 D1 + s2 D2 ..., each update taken from the true base model.

A few-step adapter and a subject's then act together, and what is on top can be switched off by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from studio.pipelines.adapters import files, targets
from studio.pipelines.adapters.together import COMPANION
from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.pipelines.protocols import Backbone

WRAPPED = ".base_layer."  # in a name: a layer that peft has put its own around
LIVE = ("tlora", "tokens")  # kinds that no weights can hold
LOW = "sara"  # on top its values would take the place of what lies beneath


def movable(header: Mapping[str, str]) -> bool:
    """Whether frozen weights can hold all of a file: no rank that follows the timestep, no new words."""
    return header.get(files.KIND, "lora") not in LIVE and COMPANION not in header


def ordered(paths: Sequence[Path]) -> list[int]:
    """Numbers of the files, the one that goes on top first: the one that no weights can hold, else the first.

    Raises UsageError for two that no weights can hold, and for SaRA's alone.
    """
    headers = [files.header(path) for path in paths]
    live = [number for number, header in enumerate(headers) if not movable(header)]
    if len(live) > 1:
        first, second = (paths[number] for number in live[:2])
        raise UsageError(f"{first} and {second}: of T-LoRA and new words only one can be drawn with; leave one out")
    able = live or [number for number, header in enumerate(headers) if header.get(files.KIND) != LOW]
    if not able:
        raise UsageError(f"{paths[0]}: files of SaRA alone cannot be drawn together; take the LoRA beside one of them")
    top = able[0]
    return [top, *(number for number in range(len(paths)) if number != top)]


@contextmanager
def beneath(model: Backbone, parts: Sequence[tuple[Path, float]]) -> Iterator[None]:
    """Inside, the model's frozen weights hold the files at their strengths, rounded to their dtype. For drawing only.

    Afterwards every weight is the tensor that it was. Raises as `files.load`.
    """
    model.fingerprint()  # taken, and kept, while the weights are the base model's
    plain, changes = weights(model), dict[str, Tensor]()
    for path, strength in parts:
        for name, change in update(model, path, strength, plain).items():
            changes[name] = changes[name] + change if name in changes else change
    before = {name: plain[name].data for name in changes}
    try:
        for name, change in changes.items():
            plain[name].data = (before[name].float() + change).to(before[name].dtype)
        yield
    finally:
        for name, original in before.items():
            plain[name].data = original


def update(model: Backbone, path: Path, strength: float, plain: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What a file adds to the weights at a strength, float32, by name."""
    copies = {name: weight.detach().clone() for name, weight in plain.items()}  # some kinds write in place
    adapter = files.load(model, path)
    try:
        with adapter.merged(strength):
            now = {name.replace(WRAPPED, "."): weight.detach() for name, weight in weights(model).items()}
            return {
                name: now[name].float() - copy.float()
                for name, copy in copies.items()
                if not torch.equal(now[name], copy)
            }
    finally:
        adapter.remove()


def weights(model: Backbone) -> dict[str, nn.Parameter]:
    """Every parameter that an adapter could be in, as `part.module.name`."""
    roots = targets.roots(model).items()
    return {f"{part}.{name}": weight for part, root in roots for name, weight in root.named_parameters()}
