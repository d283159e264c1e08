"""Where the student's own sampler comes by: the points it has to know, to which noised pictures are only near.

Backward distillation (Imagine Flash, Kohler et al. 2024, arXiv 2405.05224): a step is taught at the points that the
steps before it lead to, from noise alone, so that their errors are seen in training as they are in drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from studio.pipelines import draws
from studio.pipelines.distillation import Grid, Solver
from studio.pipelines.errors import UsageError


@dataclass(frozen=True)
class Places:
    """A place on the way of a sampler for each picture.

    way: `[n, B]`, the grid indices of the steps up to there, and from then on the place's own; going: for each step but
    the last the pictures that are not there yet.
    """

    times: Grid
    way: Tensor
    going: Sequence[Tensor]

    @property
    def index(self) -> Tensor:
        """The grid indices `[B]` of the places."""
        return self.way[-1]

    def walk(self, draw: Callable[[Tensor, Tensor, Tensor], Tensor], like: Tensor, source: torch.Generator) -> Tensor:
        """The points at the places, `[B, C, h, w]` as `like`, from noise on, without a graph.

        draw: the network's output for rows `[R]` of the batch, their points and timesteps. Each picture has a share
        gamma of fresh noise in its steps, uniform: 0 is DDIM's step, 1 LCM's, and TCD's lies between.
        """

        def normal(rows: int) -> Tensor:
            return torch.randn(rows, len(self.way), *like.shape[1:], generator=source)

        noise = draws.draw(normal, len(like), source).to(like)
        shares = draws.draw(lambda rows: torch.rand(rows, generator=source), len(like), source)
        gamma, x = shares.to(like)[:, None, None, None], noise[:, 0].clone()
        for step, rows in enumerate(self.going):
            t, to = (self.times.t[self.way[at][rows]] for at in (step, step + 1))
            with torch.no_grad():
                clean, eps = self.times.estimates(x[rows], draw(rows, x[rows], t), t)
            alpha, sigma = self.times.level(to)
            fresh = gamma[rows] * noise[rows, step + 1]
            x[rows] = (alpha * clean + sigma * ((1 - gamma[rows].square()).sqrt() * eps + fresh)).to(x)
        return x


def asked(most: int, solver: Solver, times: Grid, batch: int, source: torch.Generator) -> Places | None:
    """The places that are asked for; None for 0 steps.

    UsageError where the target is a picture that is not known, and for more steps than the grid has.
    """
    if most > len(times):
        raise UsageError(f"own_steps = {most}: the grid has {len(times)} timesteps; give {len(times)} at most")
    if most and solver == "data":
        raise UsageError(
            f"own_steps = {most}: what the student draws on its way is no noised picture, which solver = data needs; "
            "use guided or plain, or own_steps = 0"
        )
    return places(times, most, batch, source) if most else None


def places(times: Grid, most: int, batch: int, source: torch.Generator) -> Places:
    """`batch` places: every step of every sampler of 1 to `most` steps is as likely as another.

    A sampler's steps are those of LCM's schedule, the noisiest first.
    """
    device, size = times.t.device, len(times)
    with _disable_current_modes():  # how far to walk is read from the numbers, and a plan's fake ones have none
        every = torch.tensor([(steps, done) for steps in range(1, most + 1) for done in range(steps)])
        drawn = draws.draw(lambda count: torch.randint(len(every), (count,), generator=source), batch, source)
        steps, done = every[drawn].unbind(1)
        walked = torch.arange(int(done.max()) + 1)[:, None].minimum(done)
        going = [(done > step).nonzero()[:, 0].to(device) for step in range(len(walked) - 1)]
        return Places(times, (size - 1 - walked * size // steps).to(device), going)
