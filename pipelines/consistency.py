"""Direct Consistency Optimization in numbers: the loss, its health, and what the frozen model says.

Lee et al. 2024, arXiv 2402.12004. L_i = -log sigmoid(-beta d_i) with the gap d_i = l_i - l'_i between the errors of the
tuned and of the frozen model on the same noisy latents. Each error is the mean over channels and pixels: with sums in
their place, as the paper writes it, the same beta is C H W times smaller. dL_i / dl_i = beta sigmoid(beta d_i), the
gate times beta: beta / 2 at the start, nothing once the tuned model is about 5 / beta better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from studio.pipelines.captioners.words import twin
from studio.pipelines.protocols import Adapter, Backbone, Batch

PATIENCE = 50  # idle steps in a row before it is said


def loss(gap: Tensor, beta: float) -> Tensor:
    """softplus(beta d) of each sample, `[B]`; finite for any finite d."""
    return -logsigmoid(-beta * gap)


@torch.no_grad()
def health(gap: Tensor, beta: float, floor: float) -> dict[str, Tensor]:
    """The mean loss, the mean gate sigmoid(beta d), and the share of gates below the floor (shut)."""
    gates = torch.sigmoid(beta * gap)
    return {"consistency": loss(gap, beta).mean(), "gate": gates.mean(), "shut": (gates < floor).float().mean()}


def captions(batch: Batch, count: int, known: Mapping[str, str], trigger: str, class_word: str) -> list[str]:
    """What the frozen model is told of the first `count` rows: base captions, by sample id or as the caption's twin.

    A caption that was dropped stays dropped.
    """
    rows = list(zip(batch.ids, batch.prompts, strict=True))[:count]
    return [known[name] if prompt and name in known else twin(prompt, trigger, class_word) for name, prompt in rows]


def frozen(model: Backbone, adapter: Adapter, x: Tensor, t: Tensor, prompts: Sequence[str]) -> Tensor:
    """The base model's prediction `[B, C, H, W]`, by its own text encoders, without a graph."""
    with adapter.off(), torch.no_grad():
        return model.predict(x, t, model.embed(prompts))


def idle(memory: dict[str, Any], numbers: Mapping[str, float]) -> str:
    """Count a step in which every gate was shut; what to say of many in a row, once, else ''."""
    memory["idle"] = memory.get("idle", 0) + 1 if numbers["idle"] == 1 else 0
    if memory["idle"] != PATIENCE or memory.get("warned"):
        return ""
    memory["warned"] = True
    return (
        f"in {PATIENCE} steps in a row every gate was shut and nothing was learnt: all that beta = {numbers['beta']:g} "
        "allows is learnt; stop here, or use a smaller beta (auto measures it)"
    )


def doubts(adapter: Adapter, known: Mapping[str, str]) -> tuple[str, ...]:
    """What a person should know of the adapter and of the base captions, by sample id, before it begins."""
    found = []
    if mute := sum(not set(caption.lower().split()) - {"a", "an", "the"} for caption in known.values()):
        found.append(
            f"{mute} of {len(known)} base captions say nothing; give a class_word, so that they name the class"
        )
    if getattr(adapter.config, "dropout", 0):
        found.append("adapter.dropout stays off: it would be noise in one of the two errors that DCO compares")
    return tuple(found)
