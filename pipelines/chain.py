"""A sampler as a network that is as deep as it has steps: a reward's gradient comes back through some of its calls.

With g the gradient at a step's result, m = 1 where its call learns, G and J the call's Jacobians in weights and input:
the weights get m B G^T g, the step before it gets (A + m B J)^T g. Prabhudesai et al. 2023, arXiv 2310.03739.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from studio.pipelines import sampling
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance import cfg
from studio.pipelines.guidance_hearing import hearing, hears
from studio.pipelines.protocols import Backbone, Cond, Predict, Prediction, Step
from studio.pipelines.schedules import Coefficients, Schedule
from studio.pipelines.truncation import Mask

Noise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Chain:
    """The steps of a sampler, some of whose network calls learn.

    predict: guided, so that the gradient reaches every branch; learns: a flag for each step; detach_input: no gradient
    through the network's input, J = 0; checkpointed: only a call's input is kept, and it is made again in the backward
    pass, guidance and adapter as they were; random: the network draws random numbers (dropout), which must be the same
    then; before: predicts the steps in front of the first that learns, for `predict`.
    """

    schedule: Schedule
    predict: Predict
    learns: Mask
    detach_input: bool = False
    checkpointed: bool = True
    random: bool = False
    before: Predict | None = None

    @property
    def first(self) -> int:
        """The first step that learns."""
        return self.learns.index(True)

    def walk(self, x: Tensor, cond: Cond, noise: Noise) -> Iterator[Step]:
        """Every step from unit noise x `[B, C, h, w]`. noise: makes z like a state, for steps with S > 0.

        Calls that do not learn are made without a graph; the linear part of a step behind one that learns has its own.
        """
        scale, steps = self.schedule
        x = x * scale
        for number, (k, learns) in enumerate(zip(steps, self.learns, strict=True)):
            frozen = (self.before if number < self.first else None) or self.predict
            ask = self.learning if learns else torch.no_grad()(frozen)
            step = sampling.step(k, ask, x, cond, noise(x) if k.S else None)
            yield step
            x = step.next

    def learning(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """One network call that learns."""
        x = x.detach() if self.detach_input else x
        if not self.checkpointed:
            return self.predict(x, t, cond)
        again: Any = checkpoint(self.predict, x, t, cond, use_reentrant=False, preserve_rng_state=self.random)
        return again

    def last_again(self, clean: Tensor, cond: Cond, noise: Noise, prediction: Prediction) -> Tensor:
        """The result of the last step from `clean` noised anew, without a gradient into it (DRaFT-LV)."""
        k = self.schedule[1][-1]
        signal, sigma = levels(k, prediction)
        x = signal * clean.detach() + sigma * noise(clean)
        return sampling.step(k, self.learning, x, cond, noise(x) if k.S else None).next


def levels(k: Coefficients, prediction: Prediction) -> tuple[float, float]:
    """What a step's state is made of: the factors of the clean latents and of the noise."""
    if prediction == "epsilon":
        signal = float(1 + k.D**2) ** -0.5
        return signal, -k.D * signal
    return (1 + k.D if prediction == "flow" else float(1 - k.D**2) ** 0.5), -k.D


def guided(model: Backbone, scale: float, empty: Cond) -> Predict:
    """The model's prediction under classifier-free guidance, or told the scale where its network hears it."""
    guide = cfg(1.0 if hears(model) else scale, empty)
    return guide(hearing(model, scale)(model.predict))


def doubt(model: Backbone, sampler: str, scale: float, eta: float) -> str:
    """What a person should know about a sampler's numbers; "" where all is well. UsageError: eta without a use."""
    name = sampling.named(model, sampler)
    if eta and name != "ddim":
        raise UsageError(f"eta = {eta:g}: sampler '{name}' has none; leave it 0, or use ddim, or sde on a flow model")
    if name in sampling.FEW and scale > 1 and not hears(model):
        return f"sampler '{name}': most few-step models have their guidance inside: set guidance_scale = 1"
    return ""


def draws_randomly(net: nn.Module) -> bool:
    """Whether a dropout of the network is on."""
    return any(part.training and getattr(part, "p", 0) > 0 for part in net.modules() if isinstance(part, DROPOUTS))


DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
