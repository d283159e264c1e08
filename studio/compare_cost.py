"""Equal cost: how many optimizer steps of a setting a budget pays for.

One unit of each: an optimizer step; a picture the network learns from; a picture through the network, forward or
backward; a second of the training loop. Making class pictures, caching, previews, exports and the evaluation are not
part of it: they are in the table's seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.compare_config import Budget
from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.config import RunConfig

LOSSES = 4  # that a rehearsal goes through: a trainer need not do the same for every one
MOST = 10**9  # steps of a run


@dataclass(frozen=True)
class Price:
    """What one optimizer step costs. calls, seconds: None where nobody has counted."""

    samples: float
    calls: float | None = None
    seconds: float | None = None


def steps(budget: Budget, price: Price, what: str) -> int:
    """The most steps that the budget pays for. what: the cell, for messages.

    Raises UsageError when it does not pay for one step, or pays for more than a run can have.
    """
    each = 1.0 if budget.equal == "steps" else getattr(price, budget.equal)
    if not each:
        raise UsageError(f"{what}: nobody has counted its {budget.equal}; give [budget] equal = 'steps' or 'samples'")
    count = math.floor(budget.amount / each * (1 + 1e-9))
    if not 1 <= count <= MOST:
        cost = f"one step of {what} costs {each:g} {budget.equal}"
        raise UsageError(f"[budget] amount = {budget.amount:g} {budget.equal}: {count} steps, as {cost}")
    return count


def samples(config: RunConfig) -> int:
    """Pictures a step learns from; with prior preservation, as many class pictures again."""
    settings = config.settings
    prior = getattr(settings, "prior", None)
    rows = settings.batch * (2 if prior is not None and prior.weight else 1)
    return int(rows * settings.accumulate)


@dataclass
class Count:
    """Pictures that went through the network, there and back."""

    forward: int = 0
    backward: int = 0

    @property
    def calls(self) -> int:
        """Both."""
        return self.forward + self.backward


@contextmanager
def counting(model: Any) -> Iterator[Count]:
    """Inside, every picture through the model's network is counted, and every gradient that comes back through it."""
    count, predict, before = Count(), model.predict, vars(model).get("predict")

    def counted(x: Any, t: Any, cond: Any) -> Any:
        rows = len(x)
        count.forward += rows
        out = predict(x, t, cond)
        if out.requires_grad:

            def back(gradient: Any) -> None:
                count.backward += rows

            out.register_hook(back)
        return out

    model.predict = counted
    try:
        yield count
    finally:
        if before is None:
            vars(model).pop("predict")
        else:
            model.predict = before


def calls(config: RunConfig) -> float | None:
    """Pictures through the network in one optimizer step, there and back, by a rehearsal without weights.

    None where the trainer's loss cannot be rehearsed. Activations that gradient checkpointing computes again, and
    pictures that the base model draws beforehand, are not counted.
    """
    from studio import plan, plan_time
    from studio.plan_rehearsal import Rehearsal

    device = plan_time.default_device()
    rehearsal = Rehearsal(config, plan.hollow(config, device), device)
    with counting(rehearsal.twin) as count:
        peak, _ = rehearsal.through(lambda: rehearsal.losses(LOSSES), "the loss")
    return None if rehearsal.notes or not peak else count.calls / LOSSES * config.settings.accumulate
