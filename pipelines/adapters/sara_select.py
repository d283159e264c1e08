"""Which entries of a network SaRA trains: the smallest of all its tensors together, by threshold or by share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import torch
from torch import Tensor, nn

from studio.pipelines.adapters.targets import GROUPS
from studio.pipelines.errors import UsageError
from studio.pipelines.order import Scores, nth

Rule = Literal["smallest", "largest", "random"]

THRESHOLD = 2e-3  # the paper's own
WIDEST = 5e-3  # the largest threshold for which the paper says how the learning rate behaves
ASSUMED = 0.06  # share of entries below 2e-3 in SD 1.5: for plans, which read no weights


@dataclass(frozen=True)
class Selection:
    """Parameter name -> ascending flat indices `[n]` int32 (int64 in huge tensors); tensors without any are left out.

    threshold: entries below it in magnitude, also where a share was asked for; inf when that was all of them.
    """

    indices: dict[str, Tensor]
    threshold: float

    def __len__(self) -> int:
        return sum(len(index) for index in self.indices.values())


def rate(threshold: float) -> float:
    """The paper's learning rate, 1e-3 exp(-350 threshold), which was fitted on 2e-4 to 2e-3.

    Held at its value for WIDEST beyond that: it would go to nothing where the weights of a network are larger.
    """
    return 1e-3 * math.exp(-350 * min(threshold, WIDEST))


def candidates(net: nn.Module, targets: str) -> dict[str, nn.Parameter]:
    """The parameters `targets` means, tied ones once. UsageError when there is none, or one cannot be written into."""
    means = _matcher(targets)
    found = {name: parameter for name, parameter in net.named_parameters() if means(name)}
    if not found:
        endings = {
            ".".join(word for word in name.split(".")[-2:] if not word.isdigit()) for name, _ in net.named_parameters()
        }
        raise UsageError(
            f"adapter.targets: no parameter is called {targets!r}; all, {', '.join(GROUPS)}, or a regular expression "
            f"for whole names, which end in: {', '.join(sorted(endings)[:12])}"
        )
    for name, parameter in found.items():
        if not parameter.is_floating_point() or type(parameter.data) is not Tensor or not parameter.is_contiguous():
            raise UsageError(f"{name} is quantised or not stored row by row: SaRA trains it in place; quantize = 'no'")
    return found


def _matcher(targets: str) -> Callable[[str], bool]:
    """all, groups joined by +, or a regular expression for whole names of parameters or of their modules."""
    if targets == "all":
        return lambda name: True
    words = [word.strip() for word in targets.split("+")]
    known = all(word in GROUPS for word in words)
    try:
        patterns = [re.compile(GROUPS[word]) for word in words] if known else [re.compile(targets)]
    except re.error as error:
        raise UsageError(f"adapter.targets: {targets!r} is not a regular expression: {error}") from None

    def means(name: str) -> bool:
        module = name.rpartition(".")[0]
        return any(p.fullmatch(module) or (not known and p.fullmatch(name)) for p in patterns)

    return means


@torch.no_grad()
def select(
    tensors: dict[str, nn.Parameter], threshold: float, quantile: float | None, rule: Rule = "smallest", seed: int = 0
) -> Selection:
    """Entries with |w| < threshold, or with `quantile` the share of all entries that are smallest; strictly smaller.

    rule: largest and random take as many entries as smallest would, from the other end or at random by `seed`.
    """
    if any(tensor.is_meta for tensor in tensors.values()):
        return _assumed(tensors, threshold, ASSUMED if quantile is None else quantile)
    total = sum(tensor.numel() for tensor in tensors.values())

    def sizes() -> Iterable[Tensor]:
        return (magnitude(tensor) for tensor in tensors.values())

    if quantile is not None:
        threshold = _edge(sizes, int(quantile * total), total)
    if rule == "smallest":
        return Selection(_where(tensors, (size < threshold for size in sizes())), threshold)
    count = sum(int((size < threshold).sum()) for size in sizes())
    if rule == "largest":
        edge = nth(sizes, total - 1 - count) if count < total else -1.0
        return Selection(_where(tensors, (size > edge for size in sizes())), threshold)

    def drawn() -> Iterable[Tensor]:
        return (_random(tensor, f"{seed} {name}") for name, tensor in tensors.items())

    edge = _edge(drawn, count, total)
    return Selection(_where(tensors, (one < edge for one in drawn())), threshold)


def magnitude(tensor: Tensor) -> Tensor:
    """|w|, flat, float32 or float64: in half precision a threshold would be rounded before it is compared."""
    return tensor.detach().reshape(-1).to(torch.promote_types(tensor.dtype, torch.float32)).abs()


def _edge(scores: Scores, count: int, total: int) -> float:
    """The score that `count` scores are below (fewer where several are equal)."""
    return math.inf if count >= total else nth(scores, count)


def _where(tensors: dict[str, nn.Parameter], masks: Iterable[Tensor]) -> dict[str, Tensor]:
    """The indices of each mask, as narrow integers as can be."""
    found = {name: mask.nonzero().flatten() for name, mask in zip(tensors, masks, strict=True)}
    return {name: narrow(index, tensors[name].numel()) for name, index in found.items() if len(index)}


def narrow(index: Tensor, numel: int) -> Tensor:
    """int32 below 2^31."""
    return index.to(torch.int32 if numel < 2**31 else torch.int64)


def _random(tensor: Tensor, key: str) -> Tensor:
    """Uniform scores, on every device the same."""
    seed = int.from_bytes(sha256(key.encode()).digest()[:7], "big")
    made = torch.rand(tensor.numel(), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(tensor.device)


def _assumed(tensors: dict[str, nn.Parameter], threshold: float, share: float) -> Selection:
    """As many entries of each tensor, for a model without weights."""
    sizes = {name: int(share * tensor.numel()) for name, tensor in tensors.items()}
    made = {name: torch.arange(n, dtype=torch.int32, device="meta") for name, n in sizes.items() if n}
    return Selection(made, threshold)
