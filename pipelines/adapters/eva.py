"""EVA: LoRA's A starts as the main directions of what its layer is fed by the run's own batches, B as zero.

Paischer et al. 2024, arXiv 2410.07170, with the same rank in every layer (rho = 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from studio.pipelines.adapters.lora import NAME, LoRA
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone, Batch

BATCHES = 16
ROWS = 512  # inputs that a layer takes note of in one batch, evenly spread


class Eva(LoRA):
    """A LoRA that must see batches before its first step."""

    ready = False

    def prepare(self, batches: Iterable[Batch]) -> None:
        """A of every layer from the base model's work on the first 16 of `batches`; the model stays the base model.

        Once, before the first step, and not when a run goes on: A is in its checkpoints. Of several processes the
        first one's batches count.
        """
        ranks = {name: layer.r[NAME] for name, layer in self._wrapped.items()}
        with torch.no_grad(), self.off():
            found = directions(self.model, self._wrapped, ranks, islice(batches, BATCHES))
            for name, layer in self._wrapped.items():
                weight = layer.lora_A[NAME].weight
                weight.copy_(found[name].reshape(weight.shape))
                if torch.distributed.is_initialized():
                    torch.distributed.broadcast(weight.data, 0)
        self.ready = True

    def train(self, mode: bool) -> None:
        """As a LoRA. Raises UsageError when training begins and nothing was seen."""
        if mode and not self.ready:
            raise UsageError("adapter.init: eva must see batches first: call adapter.prepare(batches), or use gaussian")
        super().train(mode)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts saved tensors back, A among them."""
        super().load_state_dict(state)
        self.ready = True


def directions(
    model: Backbone, layers: Mapping[str, Any], ranks: Mapping[str, int], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """For each of peft's layers the `[rank, inputs]` orthonormal main directions of its inputs, largest first.

    Batches are noised as for training: timesteps and prompts are the ones that it will meet. A batch's generator is
    used up: give batches that are made for this.
    """
    seen = {name: Seen(ranks[name]) for name in layers}
    handles = [layer.register_forward_pre_hook(_into(seen[name], layer)) for name, layer in layers.items()]
    try:
        for batch in batches:
            noisy = model.noise(batch.latents, batch.generator)
            model.predict(noisy.x, noisy.t, model.embed(batch.prompts))
    finally:
        for handle in handles:
            handle.remove()
    if blind := [name for name, one in seen.items() if not one.width]:
        raise UsageError(f"adapter.init: eva saw no input of {blind[0]}: give batches, or leave it out of targets")
    return {name: one.result() for name, one in seen.items()}


def _into(seen: Seen, layer: Any) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.add(rows(layer.get_base_layer(), args[0].float()))

    return hook


def rows(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's inputs as rows that its weight, as a matrix, is multiplied with: for a convolution, patches."""
    if not isinstance(layer, nn.Conv2d):
        return x.flatten(0, -2)
    assert not isinstance(layer.padding, str)
    patches = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.transpose(1, 2).flatten(0, 1)


class Seen:
    """The main directions of rows that come batch by batch, through peft's incremental PCA."""

    def __init__(self, rank: int) -> None:
        self.rank, self.width = rank, 0
        self.waiting: list[Tensor] = []
        self.pca: Any = None

    def add(self, x: Tensor) -> None:
        """At most ROWS of the rows `[n, inputs]`."""
        self.width = x.shape[1]
        self.waiting.append(x[:: -(-len(x) // ROWS)].clone())
        if sum(map(len, self.waiting)) >= 2 * self.kept:
            self.fit()

    @property
    def kept(self) -> int:
        """Directions that are followed: more than are asked for, or what comes late could not rise among them."""
        return min(self.width, 2 * self.rank + 16)

    def fit(self) -> None:
        """What is waiting into the PCA."""
        from peft.utils.incremental_pca import IncrementalPCA

        x, self.waiting = torch.cat(self.waiting), []
        if self.pca is None:
            fast = 2 * self.kept <= min(x.shape)
            self.pca = IncrementalPCA(n_components=self.kept, lowrank=fast, lowrank_seed=0)
        self.pca.partial_fit(x)

    def result(self) -> Tensor:
        """`[rank, inputs]`; where there were fewer rows, the last are any that are orthogonal to the others."""
        if sum(map(len, self.waiting)) >= self.kept:
            self.fit()
        if self.pca is not None:
            found: Tensor = self.pca.components_[: self.rank].float()
            return found
        few = torch.cat(self.waiting)
        few = torch.linalg.svd(few - few.mean(0), full_matrices=False).Vh[: self.rank]
        more = torch.randn(self.rank - len(few), self.width, generator=torch.Generator().manual_seed(0)).to(few)
        return torch.linalg.qr(torch.cat([few, more]).T).Q.T
