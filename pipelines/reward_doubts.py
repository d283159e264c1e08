"""What a person should know of a run by rewards that learns nothing, and when such a run ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from studio.pipelines.errors import ModelError
from studio.pipelines.reward_loss import TINY
from studio.pipelines.rewards import Rewards, Scored

SILENT, ABOVE = "silent", "above"  # in memory: how often in a row nothing was scored, or all of it above the margin
SCORED = "scored"  # in memory: that a picture was scored since the run began
PATIENCE = 5  # updates in a row
LOST = "nothing was learnt from it"
MOST = 10  # batches or roll-outs in a row without a score: with those the run ends


def unscored(numbers: Mapping[str, float], unit: str, memory: dict[str, Any], so: str = LOST) -> list[str]:
    """Said of the first update in a row of which no picture could be scored in any process. Changes `memory`.

    numbers: of the update, means over all processes, so that all of them count alike. so: what came of it.
    """
    if 1 - numbers.get("unscored", 0.0) > TINY:
        memory.pop(SILENT, None)
        memory[SCORED] = True
        return []
    memory[SILENT] = times = memory.get(SILENT, 0) + 1
    return [f"no picture of a {unit} could be scored, and {so}"] if times == 1 else []


def lost(mute: Sequence[str], unit: str, memory: Mapping[str, Any], last: bool) -> ModelError | None:
    """What a run ends with after MOST updates in a row without a score, or at its `last` when there was never one.

    mute: the terms without a number.
    """
    times = memory.get(SILENT, 0)
    if times < MOST and not (last and times and SCORED not in memory):
        return None
    many = f"{unit}{'es' if unit.endswith('ch') else 's'}"
    when = f"of {times} {many} in a row" if SCORED in memory or not last else "of the whole run"
    who = f"{', '.join(mute)} gave no number" if mute else "the terms never had a number for the same picture"
    return ModelError(
        f"reward.terms: no picture {when} could be scored ({who}): mend the judge, or take it out of reward.terms; "
        "the run goes on where it was last saved"
    )


def muted(scored: Scored) -> list[str]:
    """The terms that have no number for any picture of a batch `[B]`."""
    return [name for name, values in scored.raw.items() if not values.isfinite().any()]


def saturated(numbers: Mapping[str, float], margin: float | None, memory: dict[str, Any]) -> list[str]:
    """Said of the 5th, 50th, 500th ... update in a row with every reward above the margin. Changes `memory`."""
    if margin is None or numbers["above"] < 1:
        memory.pop(ABOVE, None)
        return []
    memory[ABOVE] = times = memory.get(ABOVE, 0) + 1
    said = (
        f"margin = {margin:g}: every reward of the last {times} updates was above it, so nothing is learnt from them; "
        "give a larger margin, or leave it out"
    )
    return [said] if often(times, PATIENCE) else []


def misfit(margin: float | None, reward: Rewards) -> str:
    """Why a margin cannot be with such a reward; "" where it can."""
    if margin is None or not reward.standardised:
        return ""
    return (
        "a margin is in the reward's own units, and this one is measured in running deviations, which move: set "
        "reward.standardise to no, or leave the margin out"
    )


def often(times: int, first: int) -> bool:
    """first, 10 first, 100 first, ..."""
    while times > first and not times % 10:
        times //= 10
    return times == first
