"""A saved state under changed settings."""

from __future__ import annotations

from typing import Any

from studio.loop import Engine
from studio.snapshot import State


def refitted(state: State, engine: Engine) -> State:
    """A state with the learning rates, the schedule and the weight decay of an engine's settings.

    An optimizer's saved state holds the old ones, and would put them back in silence.
    """
    optimizer, schedule = state.get("optimizer"), state.get("schedule")
    fresh: list[dict[str, Any]] = engine.optimizer.state_dict()["param_groups"]
    follows: Any = engine.schedule
    rates = [
        base * factor(schedule["last_epoch"]) for base, factor in zip(follows.base_lrs, follows.lr_lambdas, strict=True)
    ]
    for group, new, rate in zip(optimizer["param_groups"], fresh, rates, strict=True):
        group |= {key: new[key] for key in ("initial_lr", "weight_decay") if key in new} | {"lr": rate}
    fitted = State(dict(state.tensors), dict(state.meta))
    fitted.put("optimizer", optimizer)
    fitted.put("schedule", {**schedule, "base_lrs": follows.base_lrs, "_last_lr": rates})
    return fitted
