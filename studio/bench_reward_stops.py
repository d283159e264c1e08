"""Runs of the benchmark of rewards that were made to cheat, and what the guard saved of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from studio.bench_reward_config import Hack
from studio.bench_reward_findings import LEAST, Known, Runs, Verdict


@dataclass(frozen=True)
class Stopped:
    """One seed of a run that cheats. ended: the guard's reason, "" where it did not stop the run; best_step: of the
    look that it went back to; seen, fell: the guard's own number then and where it stopped. The others are the held-out
    number by pictures that the guard has not seen: start; peak, peak_step: the best of all looks; back: after the guard
    went back; free: at the end of the run without a guard, NaN where there is none. reward: the cheated number at the
    start, at the last look before the end, and after going back; free_reward: without a guard.
    """

    seed: int
    step: int
    ended: str
    best_step: int
    seen: float
    fell: float
    start: float
    peak: float
    peak_step: int
    back: float
    reward: tuple[float, float, float]
    free: float = math.nan
    free_reward: float = math.nan

    @property
    def kept(self) -> float:
        """What was gone back to, as a share of the best of all looks."""
        return self.back / self.peak


def stopped(hack: Hack, runs: Runs) -> list[Stopped]:
    """Every seed."""
    free = {known.seed: known for known in runs.get(hack.free, ())}
    return [one_stopped(hack, known, free.get(known.seed)) for known in runs.get(hack.run, ())]


def one_stopped(hack: Hack, one: Known, free: Known | None) -> Stopped:
    """One seed."""
    looks, again = one.looks[hack.held_out], one.fresh
    best = max(looks, key=lambda step: looks[step]) if one.back is None else one.back
    others = {step: numbers[hack.held_out] for step, numbers in again.items()}
    peak = max(others, key=lambda step: others[step])
    end = free.fresh[free.last] if free is not None else {}
    far = max((step for step in again if step < one.last), default=one.last)
    cheated = (again[0][hack.reward], again[far][hack.reward], again[one.last][hack.reward])
    return Stopped(
        one.seed, one.last, one.ended, best, looks[best], looks[max(looks)], others[0], others[peak], peak,
        others[one.last], cheated,
        end.get(hack.held_out, math.nan), end.get(hack.reward, math.nan),
    )  # fmt: skip


def held(found: Sequence[Stopped], bar: float) -> Verdict:
    """Whether every seed was stopped, went back to something learnt, and that is as good as the best of all looks."""
    if not found:
        return "no data yet"
    if not all(one.ended and one.kept >= 1 - bar for one in found):
        return "does not hold"
    if any(one.best_step == 0 for one in found):
        return "goes back to the start"
    return "holds" if len(found) >= LEAST else "undecided"
