"""A sampler as a policy: which of its steps draw an action, from which Gaussian; and the same steps computed again.

State s_k is what the network sees at step k, the action is the next state: a_k = s_{k+1} ~ N(A s_k + B out, S^2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.pipelines import sampling
from studio.pipelines.ddpm import gaussian
from studio.pipelines.errors import UsageError
from studio.pipelines.protocols import Backbone, Cond, Predict, Reduction, Step, precise
from studio.pipelines.schedules import Coefficients, Schedule


@dataclass(frozen=True)
class Plan:
    """A sampler's steps. scale: of the unit noise it starts from.

    terminal: a Gaussian around the finished latents that is drawn from as well, and has no part in the picture.
    """

    scale: float
    steps: tuple[Coefficients, ...]
    terminal: Coefficients | None = None

    @classmethod
    def of(cls, schedule: Schedule, terminal: Coefficients | None = None, path: bool = False) -> Plan:
        """UsageError for a schedule that draws nothing, or, for the path-wise gradient, that ends with noise."""
        plan = cls(schedule[0], tuple(schedule[1]), terminal)
        if not any(k.S for k in plan.steps):
            raise UsageError(
                f"sampler_steps, sampler: none of the {len(plan.steps)} steps adds noise, so there is no action to "
                "learn; use more steps and one with noise (lcm, sde, ddim with eta = 1), or alignprop, which needs none"
            )
        if path and plan.steps[-1].S:
            raise UsageError("pathwise: this sampler's last step adds noise, which the policy's gradient covers; use 0")
        return plan

    @property
    def laws(self) -> tuple[Coefficients, ...]:
        """What each action is drawn from; S = 0 where a step has none."""
        return (*self.steps[:-1], self.terminal or self.steps[-1])

    @property
    def acting(self) -> Tensor:
        """The numbers of the steps that have an action."""
        return torch.tensor([number for number, law in enumerate(self.laws) if law.S])

    @property
    def kept(self) -> int:
        """How many states are kept of each picture: what the network saw, and a last action."""
        return len(self.steps) + bool(self.laws[-1].S)

    def play(
        self, predict: Predict, noise: Tensor, cond: Cond, generator: torch.Generator, parts: int, reduction: Reduction
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws: states `[B, kept, C, h, w]`, the actions' log-probabilities `[B, A]`, and clean latents.

        noise: unit noise of the start. parts: the rows are so many equal groups, each with noise of its own in a row.
        """
        x, states, found = precise(noise) * self.scale, [], []
        for k, law in zip(self.steps, self.laws, strict=True):
            states.append(x)
            step = sampling.step(k, predict, x, cond, fresh(x, generator, parts) if k.S else None)
            drawn = step if law is k else sampling.advance(law, x, step.t, step.out, fresh(x, generator, parts))
            if law.S:
                found.append(drawn.log_prob(drawn.next, reduction))
            x = step.next
        return torch.stack([*states, drawn.next][: self.kept], 1), torch.stack(found, 1), x

    def again(self, predict: Predict, x: Tensor, k: Tensor, cond: Cond) -> Again:
        """Step k, `[B]` on the CPU, of each row from the state x, in one call of the network."""
        times = torch.tensor([step.t for step in self.steps])
        t = (times.long() if torch.equal(times, times.floor()) else times)[k].to(x.device)
        out, still = predict(x, t, cond), torch.zeros_like(x)  # no action is drawn: it is known
        groups = [(k == number).nonzero().flatten().to(x.device) for number in k.unique()]
        laws = [self.laws[number] for number in k.unique().tolist()]
        found = zip(laws, groups, strict=True)
        steps = [sampling.advance(law, x[rows], t[rows], out[rows], still[rows]) for law, rows in found]
        return Again(tuple(groups), tuple(steps))

    def finish(self, predict: Predict, x: Tensor, cond: Cond) -> Tensor:
        """The clean latents of the last step from its states, with a graph: the path-wise gradient goes through it."""
        return sampling.step(self.steps[-1], predict, x, cond).next


@dataclass(frozen=True)
class Again:
    """Steps computed again: rows of a batch by the step they are at."""

    rows: tuple[Tensor, ...]
    steps: tuple[Step, ...]

    def log_prob(self, actions: Tensor, reduction: Reduction) -> Tensor:
        """`[B]` in the batch's order; see `Step.log_prob`."""
        return self._joined(s.log_prob(actions[r], reduction) for r, s in zip(self.rows, self.steps, strict=True))

    def kl(self, other: Again, reduction: Reduction) -> Tensor:
        """`[B]` in the batch's order, of the same rows of another model; see `Step.kl`."""
        return self._joined(one.kl(two, reduction) for one, two in zip(self.steps, other.steps, strict=True))

    def _joined(self, parts: Iterator[Tensor]) -> Tensor:
        return torch.cat(list(parts))[torch.cat(self.rows).argsort()]


def fresh(like: Tensor, generator: torch.Generator, parts: int) -> Tensor:
    """Standard normal noise, drawn group by group: the rows of a group are what several processes share."""
    return torch.cat([gaussian(part, generator) for part in like.chunk(parts)])


def terminal(model: Backbone, last: Coefficients) -> Coefficients:
    """The clean estimate noised back to the last step's own timestep (RLCM's public code). Raises UsageError."""
    alphas = getattr(model, "alphas_cumprod", None)
    if alphas is None or last.S:
        raise UsageError("include_terminal_noise: this model's last step is no consistency step; leave it off")
    a = float(alphas.double()[int(last.t)])
    return Coefficients(last.t, a**0.5 * last.C, a**0.5 * last.D, (1 - a) ** 0.5, last.C, last.D)
