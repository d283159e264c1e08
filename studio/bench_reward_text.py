"""assets/benchmarks/reward.md: what rewards taught at which cost, from whatever the benchmark has so far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from studio.bench_reward_config import Before, Hack, Study, Sweep
from studio.bench_reward_curves import mean
from studio.bench_reward_findings import Runs, change, first, kept, swept
from studio.bench_reward_said import interval, signed
from studio.bench_reward_stops import held, stopped
from studio.bench_reward_text_race import racing
from studio.methods_page import NOTES

HOW = """\
Every number but the cost is of pictures of **held-out prompts** with fixed seeds that no run has trained on, drawn from
each run's checkpoints afterwards; nothing is read off training batches. Cost: reward queries are pictures that were
scored in training; seconds are those of one core in training steps by the run's own events (loading, previews,
measuring and waiting for a core that others use do not count; other runs share the machine). A level counts only where
the run that sets it gained more than noise: the 95 % interval, by a bootstrap over prompts, of the change of the same
prompts from the same noise lies above 0. What it cost is read at the **first checkpoint at the level or above it**, for
the slower side on the line between two checkpoints, and is never less than one update. A ratio stands as geometric mean
over seeds, in brackets the 95 % interval of a bootstrap over seeds, widened for their small number
(`studio/evaluation/bootstrap.py`); a seed that does not reach the level is in it with all that its run cost. It is the
first touch that counts, and a run may leave the level again. A bar **holds** where the interval lies above it and
every seed has a level and reaches it, does not hold where the interval lies below, and is undecided otherwise. The
level that the other run **ends with** was chosen before any run. The **best level of any look** at it, which luck
raises and so makes the other's case stronger, was added when seed 0 was known: DDPO does not end where it was best.
The other's **gain over its start** is counted from each side's own start, where starts differ. Races by settings of a
trial or with a path-wise term were added when those without were undecided, and what a trial costs is in no ratio.
"""


def write(lines: Iterator[str], file: Path) -> None:
    """The page; what stands below `NOTES` in the old one is kept."""
    old = file.read_text("utf-8") if file.is_file() else ""
    below = old[old.index(NOTES) :] if NOTES in old else f"{NOTES}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + f"\n{below}", "utf-8")


def page(
    study: Study, runs: Runs, done: tuple[int, int], about: str, plot: str, extra: Sequence[str],
    head: Sequence[str] = (),
) -> Iterator[str]:  # fmt: skip
    """All lines. done: cells, of how many; about: command and hardware; plot: its file, "" for none; extra: last;
    head: before the experiments.
    """
    unfinished = "" if done[0] == done[1] else " **This page is of an unfinished benchmark.**"
    yield from (
        "# Rewards: what they teach, and what it costs", "",
        f"{about} {done[0]} of {done[1]} runs are done, seeds {', '.join(map(str, study.seeds))} and, where"
        f" rows say so, more, model {study.model}. Runs of trials are not among them.{unfinished}", "", HOW,
    )  # fmt: skip
    yield from head
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


def sweeping(study: Study, sweep: Sweep, runs: Runs) -> Iterator[str]:
    """A sweep: a row per run."""
    yield f"**{sweep.name}** ({sweep.number}, {sweep.better} is better). Diversity is that of one prompt's pictures,"
    yield "or that of different prompts' pictures, whichever is the smaller share of what it was at the start."
    yield ""
    if not any(runs.get(name) for name in sweep.runs):
        yield from ("No data yet.", "")
        return
    left = f"least diversity, share of the start's | below {sweep.collapse:g} of it at step"
    yield f"| run | {sweep.number} at its end | {left} |"
    yield "|---|--:|--:|---|"
    for name in sweep.runs:
        found = swept(sweep, name, runs)
        seeds = [one.seed for one in found]
        gone = ", ".join("never" if one.gone is None else str(one.gone) for one in found)
        ended, least = (mean(values, seeds) for values in ([one.value for one in found], [one.left for one in found]))
        yield f"| {study.run[name].about} | {interval(ended)} | {interval(least)} | {gone} |"
    ahead = first(sweep, runs) if all(runs.get(name) for name in sweep.runs) else ""
    said = (
        f"first to lose it, in every seed: {study.run[ahead].about}" if ahead else "none loses it first in every seed"
    )
    yield from ("", f"- {said}.", "")


def cheating(hack: Hack, runs: Runs) -> Iterator[str]:
    """A run that was made to cheat: a row per seed."""
    found = stopped(hack, runs)
    yield f"**{hack.name}** ({hack.reward} is cheated, {hack.held_out} is held out)."
    yield ""
    if not found:
        yield from ("No data yet.", "")
        return
    shares = ", ".join(f"{one.kept:.1%}" for one in found)
    yield f"- **{held(found, hack.bar)}**: the guard stops every seed and goes back to something learnt, within"
    yield f"  {hack.bar:.0%} of the best of all its looks. Both are by pictures that it has not seen, which may"
    yield f"  find another look the best: {shares} of that."
    start = sum(one.best_step == 0 for one in found)
    if start:
        yield f"- {start} of {len(found)} seeds went back to step 0: nothing learnt is kept."
    free = any(math.isfinite(one.free) for one in found)
    extra = " without a guard, at its end: held-out, cheated |" if free else ""
    cheated = f"{hack.reward}: start | last look | gone back to"
    unseen = "other pictures: start | best look | went back to"
    yield from (
        "", f"| seed | stopped at | back to | guard's pictures: best, stop | {unseen} | {cheated} |{extra}",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|" + ("--:|" if free else ""),
    )  # fmt: skip
    for one in found:
        rest = ("" if math.isnan(one.free) else f" {one.free:.4g}, {one.free_reward:.4g}") + " |" if free else ""
        numbers = " | ".join(f"{value:.4g}" for value in one.reward)
        yield (
            f"| {one.seed} | {one.step if one.ended else 'no'} | {one.best_step} | {one.seen:.4g}, {one.fell:.4g} "
            f"| {one.start:.4g} | {one.peak:.4g} (step {one.peak_step}) | {one.back:.4g} | {numbers} |{rest}"
        )
    yield from ("", *(f"- seed {one.seed}: {one.ended}" for one in found if one.ended), "")


def beside(before: Before, runs: Runs) -> Iterator[str]:
    """A run beside what it went on from."""
    yield from (f"**{before.name}**: {kept(before, runs)}.", "")
    if not runs.get(before.run):
        return
    known = ", ".join(str(one.seed) for one in runs[before.run])
    yield from (f"| number | before | after | change | of seeds {known} | |", "|---|--:|--:|--:|---|---|")
    for number in before.numbers:
        rows = change(before, number, runs)
        seeds = [seed for seed, *_ in rows]
        old, new, moved = (
            mean(values, seeds)
            for values in ([a for _, a, _ in rows], [b for *_, b in rows], [b - a for _, a, b in rows])
        )
        stays = f"may not fall by more than {before.bar:.0%}" if number in before.keep else ""
        each = ", ".join(f"{b - a:+.3f}" for _, a, b in rows)
        yield f"| {number} | {interval(old)} | {interval(new)} | {signed(moved)} | {each} | {stays} |"
    yield ""
