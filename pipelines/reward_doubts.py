"""What a person should know of a run by rewards that goes on and learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.pipelines.rewards import Rewards, Scored

SILENT, ABOVE = "silent", "above"  # in memory: how often in a row nothing was scored, or all of it above the margin
PATIENCE = 5  # updates in a row


def unscored(scored: Scored, unit: str, memory: dict[str, Any]) -> list[str]:
    """Said of the 1st, 10th, 100th ... batch in a row of which no picture could be scored. Changes `memory`."""
    if scored.good.any():
        memory.pop(SILENT, None)
        return []
    memory[SILENT] = times = memory.get(SILENT, 0) + 1
    again = f", {times} times in a row" if times > 1 else ""
    return [f"no picture of a {unit} could be scored, and nothing was learnt from it{again}"] if often(times, 1) else []


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
