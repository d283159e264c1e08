"""A tiny random UNet in float64 and chains over it, for laws that hold to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from studio.pipelines import schedules
from studio.pipelines.chain import Chain
from studio.pipelines.guidance import cfg
from studio.pipelines.protocols import Cond
from studio.pipelines.schedules import Schedule

WORDS, SIDE = 16, 8


class Small:
    """A frozen random network of which the attention's maps learn, two pictures, and their words."""

    def __init__(self, prediction: str = "epsilon", scale: float = 3.0) -> None:
        torch.manual_seed(0)
        self.net = UNet2DConditionModel(
            sample_size=SIDE,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=8,
            norm_num_groups=4,
            cross_attention_dim=WORDS,
        ).double()
        self.net.requires_grad_(False).eval()
        self.weights = [p.requires_grad_() for n, p in self.net.named_parameters() if "to_k.w" in n or "to_v.w" in n]
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        )
        self.model: Any = SimpleNamespace(scheduler=scheduler, prediction=prediction)
        self.x, self.goal = self.draw(2, 4, SIDE, SIDE), self.draw(2, 4, SIDE, SIDE)
        self.cond, self.empty = Cond(self.draw(2, 5, WORDS)), Cond(self.draw(1, 5, WORDS))
        self.predict = cfg(scale, self.empty)(self.plain)

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    def plain(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The unguided prediction."""
        found: Tensor = self.net(x, t, encoder_hidden_states=cond.tokens, return_dict=False)[0]
        return found

    def schedule(self, steps: int = 8, eta: float = 0.0) -> Schedule:
        return schedules.ddim(self.model, steps, eta)

    def chain(self, learns: Sequence[bool], eta: float = 0.0, **how: Any) -> Chain:
        return Chain(self.schedule(len(learns), eta), how.pop("predict", self.predict), tuple(learns), **how)

    def end(self, chain: Chain, noise: Callable[[Tensor], Tensor] = torch.zeros_like) -> Tensor:
        """The clean latents."""
        return list(chain.walk(self.x, self.cond, noise))[-1].next

    def reward(self, latents: Tensor) -> Tensor:
        return (latents.tanh() * self.goal).sum()

    def gradient(self, value: Tensor) -> Tensor:
        """In all weights that learn, as one vector."""
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, self.weights)])

    def of(self, learns: Sequence[bool], **how: Any) -> Tensor:
        """The reward's gradient through a chain."""
        return self.gradient(self.reward(self.end(self.chain(learns, **how))))


def last(k: int, steps: int = 8) -> tuple[bool, ...]:
    """The last k steps."""
    return tuple(i >= steps - k for i in range(steps))


def apart(one: Tensor, two: Tensor) -> float:
    """Relative distance."""
    return float(((one - two).norm() / two.norm()).detach())
