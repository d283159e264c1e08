"""A plan for a person."""

from __future__ import annotations

from collections.abc import Sequence

from studio import table
from studio.config import RunConfig
from studio.plan import Plan
from studio.rate import clock
from studio.trainers import policy
from studio.trainers.base import Settings


def size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def work(settings: Settings) -> str:
    """The steps, and what each is made of."""
    if not isinstance(settings, policy.Settings):
        return f"{settings.steps} steps of {settings.batch} x {settings.accumulate} pictures"
    pairs, cycle = settings.rollout * settings.learnt(settings.actions), settings.updates * settings.epochs
    part = f"{-(-pairs // settings.updates)} of its " if settings.updates > 1 else ""
    return (
        f"{settings.steps} steps, {'one' if cycle == 1 else cycle} for each roll-out of {settings.rollout} pictures, "
        f"each step from {part}{pairs} (picture, sampler step) pairs"
    )


def show(config: RunConfig, plan: Plan, way: Sequence[str]) -> None:
    """Print the plan."""
    print(f"{config.trainer} on {config.model}, {work(config.settings)}, on {plan.device}\n")
    rows = [("peak memory", "", "of which")]
    for phase in plan.phases:
        parts = sorted(phase.parts.items(), key=lambda part: -part[1])
        rows.append((phase.name, size(phase.peak), ", ".join(f"{name} {size(taken)}" for name, taken in parts)))
    rows.append(("free", size(plan.free), "fits" if plan.fits else "does not fit"))
    rows.append(("", "", ""))
    taken = ", ".join(f"{name} {size(count)}" for name, count in plan.disk.items() if count)
    rows.append(("disk", size(sum(plan.disk.values())), taken))
    if plan.full:
        rows.append(("", size(plan.room), "free there: does not fit"))
    rows.append(("time", clock(plan.total), f"{plan.step:.3g} s per step; {plan.speed}"))
    table.show(rows, {"fits": "green", "does not fit": "red"})
    for note in plan.notes:
        print(f"note: {note}")
    if way:
        print(f"to make it fit: {'; '.join(way)}")


def shortage(plan: Plan, way: Sequence[str]) -> str:
    """Why the run does not fit, in one line."""
    peak = plan.peak
    help_ = f"; to make it fit: {'; '.join(way)}" if way else ""
    return f"the phase {peak.name} takes {size(peak.peak)}, {size(plan.free)} are free on {plan.device}{help_}"
