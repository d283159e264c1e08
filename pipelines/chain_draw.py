"""What comes out of a chain that learns: clean latents with their graph, and the distance from a frozen model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.pipelines.chain import Chain, guided
from studio.pipelines.ddpm import gaussian
from studio.pipelines.protocols import Backbone, Batch, Cond, Predict, Prediction, Step
from studio.pipelines.truncation import Truncation


@dataclass(frozen=True)
class Drawn:
    """latents: `[N, C, h, w]`, N = B or B times the copies; drift: mean |e - e_ref|^2 of one call, where asked."""

    latents: Tensor
    drift: Tensor | None = None


def draw(
    chain: Chain,
    settings: Truncation,
    batch: Batch,
    cond: Cond,
    prediction: Prediction,
    compared: tuple[Predict, int] | None = None,
) -> Drawn:
    """Follows the chain to its end, or to the one step that learns and the clean picture as guessed there (ReFL).

    All noise comes from the batch's generator, in the order of use. compared: what the call of a step is compared with,
    and the step's number, one that learns. Copies of the last step (DRaFT-LV) come after the first B rows.
    """

    def noise(like: Tensor) -> Tensor:
        return gaussian(like, batch.generator).to(like)

    drift = None
    for number, step in enumerate(chain.walk(noise(batch.latents), cond, noise)):
        if compared is not None and number == compared[1]:
            drift = distance(chain, step, cond, compared[0])
        if settings.mode == "refl" and number == chain.first:
            return Drawn(step.clean, drift)
    copies = [chain.last_again(step.next, cond, noise, prediction) for _ in range(settings.copies - 1)]
    return Drawn(torch.cat([step.next, *copies]), drift)


def distance(chain: Chain, step: Step, cond: Cond, frozen: Predict) -> Tensor:
    """mean |e - e_ref|^2 of a call that learns, at a state that is taken as given.

    Through the state e alone would have a gradient, and e_ref none, which pushes where both would have moved together;
    so the call is made again where its input carries one.
    """
    x = step.x.detach()
    given = chain.detach_input or not step.x.requires_grad
    out = step.out if given else chain.learning(x, step.t, cond)
    return (out - frozen(x, step.t, cond)).square().mean()


def frozen(
    model: Backbone, scale: float, prompts: list[str], reference: Callable[[], AbstractContextManager[None]]
) -> Predict:
    """The guided prediction inside `reference`, of these prompts as they are embedded there; without a graph."""
    with reference():
        told, empty = model.embed(prompts), model.embed([""])
    predict = guided(model, scale, empty)

    def predicted(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        with reference():
            return predict(x, t, told)

    return predicted
