"""Consistency distillation in numbers: the grid of timesteps, the teacher's step, jumps along its path, distances.

LCM (Luo et al. 2023, arXiv 2310.04378), PCM (Wang et al. 2024, arXiv 2405.18407), TCD (Zheng et al. 2024, arXiv
2402.19159). A noisy latent is z = alpha x0 + sigma eps, with alpha^2 + sigma^2 = 1 for noise schedules and alpha =
1 - sigma for flows. Any network output gives an estimate of x0 and of eps that agree with z, and alpha' x0 + sigma' eps
is the path's point at another time: DDIM's step where the schedule is one of noise, Euler's where it is a flow's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from diffusers import DDIMScheduler
from pydantic import AfterValidator, Field, ValidationInfo
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import _disable_current_modes

from studio.pipelines import draws, schedules, schedules_flow
from studio.pipelines.errors import ModelError, UsageError
from studio.pipelines.protocols import Adapter, Backbone, Prediction

JumpTo = Literal["origin", "edge", "any"]
Solver = Literal["guided", "plain", "data"]
Distance = Literal["l2", "huber", "cauchy"]
SIGMA_DATA, SCALING = 0.5, 10.0  # of LCM's boundary condition


@dataclass(frozen=True)
class Grid:
    """The timesteps at which a student is taught.

    t: `[N]`, ascending, as the network takes them; before: `[N]`, where the teacher's step from each ends, the first at
    0; alphas: the squared alphas of a noise schedule `[T]`, None for flows; total: T.
    """

    t: Tensor
    before: Tensor
    prediction: Prediction
    alphas: Tensor | None
    total: int

    def __len__(self) -> int:
        return len(self.t)

    def level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at timesteps `[B]`, each `[B, 1, 1, 1]`."""
        if self.alphas is None:
            sigma = (t.double() / self.total)[:, None, None, None]
            return (1 - sigma).float(), sigma.float()
        squared = self.alphas.to(t.device)[t.long()][:, None, None, None]
        return squared.sqrt().float(), (1 - squared).sqrt().float()

    def estimates(self, x: Tensor, out: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What a network's output says of the clean latents and of the noise in x, each `[B, C, h, w]`."""
        alpha, sigma = self.level(t)
        if self.prediction == "epsilon":
            return (x - sigma * out) / alpha, out
        if self.prediction == "v_prediction":
            return alpha * x - sigma * out, sigma * x + alpha * out
        return x - sigma * out, x + alpha * out

    def jump(self, x: Tensor, out: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """The path's point at timesteps `to` `[B]`, by the output at t; x itself where `to` is t."""
        clean, eps = self.estimates(x, out, t)
        alpha, sigma = self.level(to)
        return torch.where((t == to)[:, None, None, None], x, alpha * clean + sigma * eps)

    def origin(self, x: Tensor, out: Tensor, t: Tensor) -> Tensor:
        """LCM's f = c_skip x + c_out x0, which is x itself at t = 0; a flow's x0 is that already."""
        clean, _ = self.estimates(x, out, t)
        if self.alphas is None:
            return clean
        skip, keep = boundary(t)
        return skip * x + keep * clean

    def f(self, jump_to: JumpTo, x: Tensor, out: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """The consistency function: where x at t leads by the output there; x itself where it is there already."""
        return self.origin(x, out, t) if jump_to == "origin" else self.jump(x, out, t, to)


def boundary(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of LCM at timesteps `[B]`, each `[B, 1, 1, 1]`: 1 and 0 at t = 0, 0 and 1 soon after."""
    scaled = (SCALING * t.double())[:, None, None, None]
    total = scaled.square() + SIGMA_DATA**2
    return (SIGMA_DATA**2 / total).float(), (scaled / total.sqrt()).float()


def grid(model: Backbone, count: int, shape: torch.Size, leap: int = 1) -> Grid:
    """`count` timesteps as LCM has them: k - 1, 2k - 1, ... with k = T // count, 19, 39, ... 999 of 1000.

    A flow's are its own scheduler's, for latents of this shape. They do not change with diffusers' version. leap: how
    many of them a teacher's step goes down. Raises UsageError for an impossible number, ModelError where the schedule
    says nothing at its end.
    """
    total = int(model.scheduler.config.num_train_timesteps)
    if not 1 <= count <= total:
        raise UsageError(f"grid: {count} timesteps of {total}: give 1 to {total}")
    with _disable_current_modes():  # a plan's rehearsal has fake tensors, of which nothing can be read
        times, alphas = flow(model, count, shape) if model.prediction == "flow" else latent(model, count, total)
    if model.prediction == "epsilon" and alphas is not None and alphas[int(times[-1])] == 0:
        raise ModelError(
            "scheduler: epsilon says nothing at zero terminal SNR, and distillation begins there; use a v-prediction "
            "model or set rescale_betas_zero_snr to false in scheduler/scheduler_config.json"
        )
    t = torch.tensor(times, device=model.device)
    squared = None if alphas is None else torch.tensor(alphas, dtype=torch.float64, device=model.device)
    return Grid(t, pad(t, (leap, 0))[:count], model.prediction, squared, total)


def flow(model: Backbone, count: int, shape: torch.Size) -> tuple[list[float], None]:
    """A flow's own timesteps, rising."""
    own = schedules.own_schedule(model, type(model.scheduler))
    shift = schedules_flow.dynamic_shift(model, shape)
    return schedules.timesteps(own, count, **shift).timesteps.flip(0).tolist(), None


def latent(model: Backbone, count: int, total: int) -> tuple[list[int], list[float]]:
    """The timesteps of a noise schedule, rising, and all of its squared alphas."""
    alphas = schedules.own_schedule(model, DDIMScheduler).alphas_cumprod.double()
    return [step * (total // count) - 1 for step in range(1, count + 1)], alphas.tolist()


def edges(count: int, phases: int) -> list[int]:
    """Where PCM's phases begin among `count` grid indices: floor(i count / phases). UsageError for too many."""
    if phases > count:
        raise UsageError(f"phases: {phases} phases of a grid of {count} timesteps; give {count} at most")
    return [i * count // phases for i in range(phases)]


def destination(jump_to: JumpTo, times: Grid, index: Tensor, phases: int, generator: torch.Generator) -> Tensor:
    """The timesteps `[B]` that student and target both jump to from grid indices `[B]` and the step before.

    edge: the phase is that of the index, never that of the step before it; any: uniform up to the step before.
    """
    if jump_to == "origin":
        return torch.zeros_like(times.t[index])
    if jump_to == "edge":
        begins = torch.tensor(edges(len(times), phases), device=index.device)
        begin = begins[torch.searchsorted(begins, index, right=True) - 1]
        return torch.where(begin > 0, times.t[begin - 1], torch.zeros_like(times.t[begin]))
    share = draws.draw(lambda rows: torch.rand(rows, generator=generator), len(index), generator).to(index.device)
    last = times.before[index]
    return share * last if times.alphas is None else (share * (last + 1)).long().minimum(last)


def indices(times: Grid, batch: int, generator: torch.Generator) -> Tensor:
    """Grid indices `[B]`, each uniform; together spread evenly, which a mean over the batch likes."""

    def spread(rows: int) -> Tensor:
        even = (torch.arange(rows) + torch.rand(rows, generator=generator)) / rows * len(times)
        return even.long().clamp(max=len(times) - 1)[torch.randperm(rows, generator=generator)]

    return draws.draw(spread, batch, generator).to(times.t.device)


def guidance(least: float, most: float, batch: int, generator: torch.Generator) -> Tensor:
    """The teacher's w `[B]`, uniform between both: the usual guidance scale minus 1, as LCM counts it."""
    return least + (most - least) * draws.draw(lambda rows: torch.rand(rows, generator=generator), batch, generator)


def no_less(w_max: float, others: ValidationInfo) -> float:
    """The setting w_max. Raises ValueError where w_min is more."""
    w_min = others.data.get("w_min", w_max)
    if w_min > w_max:
        raise ValueError(f"w_min = {w_min:g} is more than w_max = {w_max:g}: give a range, or the same number twice")
    return w_max


Most = Annotated[float, Field(ge=0, le=100, validate_default=True), AfterValidator(no_less)]


def teach(model: Backbone, adapter: Adapter, x: Tensor, t: Tensor, prompts: list[str], w: Tensor | None) -> Tensor:
    """The frozen model's output with classifier-free guidance, c + w (c - u), without a graph.

    w: `[B]`; None: the plain output c. u is the output for the empty prompt.
    """
    with adapter.off(), torch.no_grad():
        if w is None:
            return model.predict(x, t, model.embed(prompts))
        cond = model.embed([*prompts, *[""] * len(prompts)])
        with_prompt, without = model.predict(torch.cat([x, x]), torch.cat([t, t]), cond).chunk(2)
        return with_prompt + w[:, None, None, None] * (with_prompt - without)


def refuse_other_base(adapter: Adapter) -> None:
    """UsageError for an adapter that leaves another teacher than the base model when it is off."""
    if not getattr(adapter, "exact_off", False):
        kind = getattr(adapter, "kind", type(adapter).__name__)
        raise UsageError(
            f"adapter: LCM's teacher is the base model, and the kind '{kind}' changes it even when it is switched off "
            "(exact_off is false): use lora, or solver = data"
        )


@contextmanager
def same_dropout(adapter: Adapter, generator: torch.Generator) -> Iterator[None]:
    """Inside, an adapter drops the same each time, by the generator's first seed: student and target are compared."""
    if not getattr(adapter.config, "dropout", 0):
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(generator.initial_seed())
        yield


def distance(kind: Distance, gap: Tensor, c: float) -> Tensor:
    """The loss of each element of a gap: its square, sqrt(gap^2 + c^2) - c, or log(1 + gap^2 / 2 c^2)."""
    squares = gap.float().square()
    if kind == "l2":
        return squares
    if kind == "huber":
        return squares / ((squares + c**2).sqrt() + c)  # the same: a difference would lose small gaps
    return (squares / (2 * c**2)).log1p()


def per_sample(kind: Distance, gap: Tensor, c: float, masks: Tensor | None) -> Tensor:
    """The mean of `distance` over each sample `[B]`; with masks `[B, 1, H, W]`, over the mask."""
    found = distance(kind, gap, c)
    if masks is None:
        return found.flatten(1).mean(1)
    masks = masks.to(found).expand_as(found)
    return (found * masks).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp(min=1.0)
