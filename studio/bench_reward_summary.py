"""What stands at the head of the page on rewards: every bar, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from studio import bench_reward_lcm as lcm
from studio.bench_reward_config import Before, Hack, Race, Study
from studio.bench_reward_curves import mean, times
from studio.bench_reward_findings import Runs, change, kept
from studio.bench_reward_races import Level, laps, raced
from studio.bench_reward_said import ends, signed
from studio.bench_reward_stops import held, stopped

MEMORY = ("memory of AlignProp and RLCM by sampler steps", "measured apart", "[reward_memory.md](reward_memory.md)")
LEVELS: dict[Level, str] = {"end": "level at the end", "best": "best look", "gain": "gain over its start"}


def summary(study: Study, runs: Runs, few: Sequence[lcm.Drawn]) -> Iterator[str]:
    """Two tables: races by the level that is raced to, and the rest. few: what was drawn in few steps."""
    columns = " | ".join(f"to the other's {words}" for words in LEVELS.values())
    yield from (f"| race | at least | {columns} |", "|---|---|---|---|---|")
    for race in study.race:
        ours, theirs = study.run[race.run].about, study.run[race.against].about
        cells = " | ".join(reached(race, runs, to) for to in LEVELS)
        yield f"| {race.name}: {ours} against {theirs} | {race.bar:g} times fewer {race.unit} | {cells} |"
    yield from ("", "| bar | | measured |", "|---|---|---|")
    rest = [*(guarded(hack, runs) for hack in study.hack), *(stayed(before, runs) for before in study.before)]
    for row in (*rest, distilled(few), MEMORY):
        yield f"| {' | '.join(row)} |"
    yield ""


def reached(race: Race, runs: Runs, to: Level) -> str:
    """What a race to a level came to."""
    found = laps(race, runs, to)
    seen = times([one.ratio for one in found if one.rose], [one.seed for one in found if one.rose])
    said = raced(found, race.bar)
    return (f"**{said}**" if said == "holds" else said) + (f", {seen.value:.3g}{ends(seen)}" if seen.n else "")


def guarded(hack: Hack, runs: Runs) -> tuple[str, ...]:
    """A run that was made to cheat."""
    found = stopped(hack, runs)
    bar = f"a run made to cheat is stopped, and goes back to within {hack.bar:.0%} of its best look"
    return bar, held(found, hack.bar), ", ".join(f"{one.kept:.1%}" for one in found)


def stayed(before: Before, runs: Runs) -> tuple[str, ...]:
    """A run beside what it went on from."""
    moved = {name: change(before, name, runs) for name in before.keep}
    figures = (
        f"{name} {signed(mean([new - old for _, old, new in each], [seed for seed, *_ in each]))}"
        for name, each in moved.items()
        if each
    )
    return f"{before.name}: a fall of {before.bar:.0%} at most", kept(before, runs), ", ".join(figures)


def distilled(few: Sequence[lcm.Drawn]) -> tuple[str, ...]:
    """The few-step adapter."""
    bar = f"{lcm.STUDENT} with the few-step adapter within {100 * lcm.BAR:g} points of 25 without it"
    seen, control = (lcm.said(lcm.less(few, way), "+") for way in (lcm.STUDENT, lcm.SAME_STEPS))
    return bar, lcm.verdict(few), f"{seen}; {lcm.named(lcm.SAME_STEPS)}: {control}" if control else seen
