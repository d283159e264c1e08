"""assets/benchmarks/reward.md: what rewards taught at which cost, from whatever the benchmark has so far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from studio.bench_reward_config import Before, Hack, Race, Study, Sweep
from studio.bench_reward_curves import mean, times
from studio.bench_reward_findings import (
    Known,
    Lap,
    Runs,
    change,
    first,
    held,
    kept,
    laps,
    pairs,
    raced,
    sign,
    stopped,
    swept,
)
from studio.evaluation.bootstrap import Interval
from studio.methods_page import NOTES

HOW = """\
Every number but the cost is of pictures of **held-out prompts** with fixed seeds that no run has trained on, drawn from
each run's checkpoints afterwards; nothing is read off training batches. Cost: reward queries are pictures that were
scored in training; seconds are those of one core in training steps by the run's own events (loading, previews,
measuring and waiting for a core that others use do not count; two runs share the machine). Between two checkpoints a
curve is the line through them. A ratio stands as geometric mean over seeds, in brackets the 95 % interval of a
bootstrap over seeds, widened for their small number (`studio/evaluation/bootstrap.py`). A bar **holds** where the
interval lies above it, does not hold where it lies below, and is undecided otherwise.
"""


def write(lines: Iterator[str], file: Path) -> None:
    """The page; what stands below `NOTES` in the old one is kept."""
    old = file.read_text("utf-8") if file.is_file() else ""
    below = old[old.index(NOTES) :] if NOTES in old else f"{NOTES}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + f"\n{below}", "utf-8")


def page(study: Study, runs: Runs, done: tuple[int, int], about: str, plot: str, extra: Sequence[str]) -> Iterator[str]:
    """All lines. done: cells, of how many; about: command and hardware; plot: its file, "" for none; extra: last."""
    unfinished = "" if done[0] == done[1] else " **This page is of an unfinished benchmark.**"
    yield from (
        "# Rewards: what they teach, and what it costs", "",
        f"{about} {done[0]} of {done[1]} runs are done, seeds {', '.join(map(str, study.seeds))}, model {study.model}."
        f"{unfinished}", "", HOW,
    )  # fmt: skip
    yield from ([f"![held-out reward over queries and seconds]({plot})", ""] if plot else [])
    for experiment in study.order:
        yield from (f"## {experiment}", "")
        for race in (one for one in study.race if one.experiment == experiment):
            yield from racing(study, race, runs)
        for sweep in (one for one in study.sweep if one.experiment == experiment):
            yield from sweeping(study, sweep, runs)
        for hack in (one for one in study.hack if one.experiment == experiment):
            yield from cheating(hack, runs)
        for before in (one for one in study.before if one.experiment == experiment):
            yield from beside(before, runs)
    yield from extra


def racing(study: Study, race: Race, runs: Runs) -> Iterator[str]:
    """A race: what it says, and a row per seed."""
    ours, theirs = study.run[race.run].about, study.run[race.against].about
    plain, gain = laps(race, runs), laps(race, runs, gain=True)
    same = all(one.mine == other.mine for one, other in zip(plain, gain, strict=True))
    yield f"**{race.name}** ({race.number}, {race.better} is better): {ours} against {theirs}."
    yield ""
    if not plain:
        yield from ("No data yet.", "")
        return
    ways = [(plain, f"to the level that {theirs} ends with")]
    ways += [] if same else [(gain, f"to as much above its own start as {theirs} gains")]
    for found, words in ways:
        yield f"- **{raced(found, race.bar)}**: at least {race.bar:g} times fewer {race.unit} {words}:"
        yield f"  {ratio(found)}."
    yield f"- at equal wall time {ours} is better than {theirs} by {signed(found_at(race, plain))}."
    yield from drawing(race, runs)
    columns = f"{race.unit}, {theirs} | {race.unit}, {ours} | equal time | {theirs} then, {ours} then"
    yield from ("", f"| seed | {theirs} starts at | level | {columns} |", "|---|--:|--:|--:|--:|--:|--:|")
    yield from (row(race, one) for one in plain)
    yield ""
    yield from by_steps(study, race, runs)


def row(race: Race, one: Lap) -> str:
    """One seed."""
    way = sign(race.better)
    cost = f"{one.mine:.0f}" if one.reached else f"not in {one.mine:.0f}"
    level = f"{way * one.level:.4g}" if one.rose else f"{way * one.level:.4g} (no gain)"
    then = f"{way * one.others:.4g}, {way * one.ours:.4g}"
    return f"| {one.seed} | {way * one.start:.4g} | {level} | {one.theirs:.0f} | {cost} | {one.until:.0f} s | {then} |"


def found_at(race: Race, found: Sequence[Lap]) -> Interval:
    """How much better the run is when both have had as much time."""
    return mean([one.ours - one.others for one in found], [one.seed for one in found])


def ratio(found: Sequence[Lap]) -> str:
    """`23.1 [18.0, 29.6] times, 3 of 3 seeds`."""
    rows = [one for one in found if one.rose]
    there = sum(one.reached for one in rows)
    free = sum(one.ratio == math.inf for one in rows)
    seen = times([one.ratio for one in rows], [one.seed for one in rows])
    said = f"{seen.value:.3g}{ends(seen)} times" if seen.n else "no ratio"
    parts = [said, f"{there} of {len(found)} seeds reach it"]
    parts += [f"{free} are there from the start"] if free else []
    parts += [f"in {len(found) - len(rows)} there was no gain to reach"] if len(rows) < len(found) else []
    return ", ".join(parts)


def drawing(race: Race, runs: Runs) -> Iterator[str]:
    """How long a picture takes."""
    both = pairs(runs, race.run, race.against)
    if both and race.unit == "seconds":
        seen = times([other.each / one.each for one, other in both], [one.seed for one, _ in both])
        own, others = fmean(one.each for one, _ in both), fmean(other.each for _, other in both)
        yield f"- a picture takes {own:.3f} s against {others:.3f} s: {seen.value:.3g}{ends(seen)} times less."


def by_steps(study: Study, race: Race, runs: Runs) -> Iterator[str]:
    """The number at other numbers of sampler steps, at the start and at the end."""
    recipe, rows = study.run[race.run], runs.get(race.run, ())
    counts = sorted({recipe.draw.steps, *recipe.also})
    if not recipe.also or not rows:
        return
    yield f"| {race.number}, sampler steps | {' | '.join(map(str, counts))} |"
    yield f"|---|{'--:|' * len(counts)}"
    for words, step in (("start", 0), ("end", None)):
        cells = [at_steps(rows, race.number, step, count) for count in counts]
        yield f"| {words} | {' | '.join(cells)} |"
    yield ""


def at_steps(rows: Sequence[Known], number: str, step: int | None, count: int) -> str:
    """Mean over seeds of a number at a step (None: the last) drawn with so many sampler steps."""
    seen = [(one.seed, one.sheet.get(one.last if step is None else step, count)) for one in rows]
    there = {seed: found.numbers[number] for seed, found in seen if found is not None and number in found.numbers}
    return interval(mean(list(there.values()), list(there)))


def sweeping(study: Study, sweep: Sweep, runs: Runs) -> Iterator[str]:
    """A sweep: a row per run."""
    yield from (f"**{sweep.name}** ({sweep.number}, {sweep.better} is better).", "")
    if not any(runs.get(name) for name in sweep.runs):
        yield from ("No data yet.", "")
        return
    yield f"| run | at its end | least diversity, share of the start's | below {sweep.collapse:g} of it at step |"
    yield "|---|--:|--:|---|"
    for name in sweep.runs:
        found = swept(sweep, name, runs)
        seeds = [one.seed for one in found]
        gone = ", ".join("never" if one.gone is None else str(one.gone) for one in found)
        ended, left = (mean(values, seeds) for values in ([one.value for one in found], [one.left for one in found]))
        yield f"| {study.run[name].about} | {interval(ended)} | {interval(left)} | {gone} |"
    ahead = first(sweep, runs) if all(runs.get(name) for name in sweep.runs) else ""
    said = (
        f"first to lose it, in every seed: {study.run[ahead].about}" if ahead else "none loses it first in every seed"
    )
    yield from ("", f"- {said}.", "")


def cheating(hack: Hack, runs: Runs) -> Iterator[str]:
    """A run that was made to cheat: a row per seed."""
    found = stopped(hack, runs)
    yield f"**{hack.name}** ({hack.reward} is trained, {hack.held_out} is held out)."
    yield ""
    if not found:
        yield from ("No data yet.", "")
        return
    shares = ", ".join(f"{one.kept:.1%}" for one in found)
    every = ", ".join(f"{one.of_all:.1%}" for one in found)
    yield f"- **{held(found, hack.bar)}**: the guard stops every seed, and what it goes back to is within"
    yield f"  {hack.bar:.0%} of the best that it saw, by other pictures than it looked at: {shares} of it."
    yield f"- of the best of all checkpoints, which nobody could know, it is {every}, by a third set of pictures."
    yield ""
    held_out = "held-out: start | best seen | after going back | without a guard"
    yield f"| seed | stopped at step | best seen at step | {held_out} | {hack.reward}: with | without |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for one in found:
        numbers = (one.start, one.best, one.back, one.free, one.reward, one.free_reward)
        at = one.step if one.ended else "no"
        yield f"| {one.seed} | {at} | {one.best_step} | {' | '.join(f'{value:.4g}' for value in numbers)} |"
    yield from ("", *(f"- seed {one.seed}: {one.ended}" for one in found if one.ended), "")


def beside(before: Before, runs: Runs) -> Iterator[str]:
    """A run beside what it went on from."""
    yield from (f"**{before.name}**: {kept(before, runs)}.", "")
    if not runs.get(before.run):
        return
    yield from ("| number | before | after | change | |", "|---|--:|--:|--:|---|")
    for number in before.numbers:
        rows = change(before, number, runs)
        seeds = [seed for seed, *_ in rows]
        old, new, moved = (
            mean(values, seeds)
            for values in ([a for _, a, _ in rows], [b for *_, b in rows], [b - a for _, a, b in rows])
        )
        stays = f"may not fall by more than {before.bar:.0%}" if number in before.keep else ""
        yield f"| {number} | {interval(old)} | {interval(new)} | {signed(moved)} | {stays} |"
    yield ""


def interval(seen: Interval) -> str:
    """`0.512 [0.498, 0.526]`; "" for none."""
    return f"{seen.value:.3g}{ends(seen)}" if seen.n else ""


def signed(seen: Interval) -> str:
    """As `interval`, with its sign."""
    return f"{seen.value:+.3g}{ends(seen, '+')}" if seen.n else ""


def ends(seen: Interval, plus: str = "") -> str:
    """The interval's ends in brackets; "" where it has none."""
    return "" if math.isnan(seen.low) or math.isnan(seen.high) else f" [{seen.low:{plus}.3g}, {seen.high:{plus}.3g}]"
