"""The races on the page on rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from studio.bench_reward_config import Drawing, Race, Study
from studio.bench_reward_curves import mean, times
from studio.bench_reward_findings import Known, Runs, pairs, sign
from studio.bench_reward_races import Lap, beside, equal, laps, pooled, raced
from studio.bench_reward_said import ends, interval, signed

UNITS = {"queries": "reward queries", "seconds": "s of training"}


def racing(study: Study, race: Race, runs: Runs) -> Iterator[str]:
    """A race: what it says, and a row per seed."""
    ours, theirs = study.run[race.run].about, study.run[race.against].about
    plain, gain, best = (laps(race, runs, to) for to in ("end", "gain", "best"))
    same = all(one.wanted == other.wanted for one, other in zip(plain, gain, strict=True))
    yield f"**{race.name}** ({race.number}, {race.better} is better): {ours} against {theirs}."
    yield ""
    if not plain:
        yield from ("No data yet.", "")
        return
    rose = sum(one.rose for one in plain)
    own, others = map(signed, pooled(race, runs))
    yield f"- by their ends {theirs} gains {others}, {ours} {own}, with intervals over prompts;"
    yield f"  {theirs}'s gain is more than noise in {rose} of {len(plain)} seeds."
    ways = [(plain, f"to the level that {theirs} ends with")]
    ways += [] if best == plain else [(best, f"to the best level of any look at {theirs}")]
    ways += [] if same else [(gain, f"to as much above its own start as {theirs} gains")]
    for found, words in ways:
        yield from verdict(race, found, words, theirs)
    yield from alike(race, runs, ours, theirs)
    yield from besides(race, runs, ours, theirs)
    yield from drawing(study, race, runs)
    columns = f"{race.unit}, {theirs} | {race.unit}, {ours}"
    yield from ("", f"| seed | {theirs} starts at | gain | level | {columns} |", "|---|--:|--:|--:|--:|--:|")
    yield from (row(race, one) for one in plain)
    yield ""
    yield from by_steps(study, race, runs)


def verdict(race: Race, found: Sequence[Lap], words: str, theirs: str) -> Iterator[str]:
    """One way of counting."""
    said = raced(found, race.bar)
    if said == "nothing gained to reach":
        yield f"- **{theirs} gained nothing** beyond noise: no ratio {words}; what both gained at equal cost counts."
        return
    yield f"- **{said}**: at least {race.bar:g} times fewer {race.unit} {words}:"
    yield f"  {ratio(found)}."


def alike(race: Race, runs: Runs, ours: str, theirs: str) -> Iterator[str]:
    """What both gained when they had cost the same."""
    for unit, word in UNITS.items():
        found = equal(race, unit, runs)
        seeds = [one.seed for one in found]
        won, lost, ahead = (
            signed(mean(values, seeds))
            for values in ([one.ours for one in found], [one.theirs for one in found], [one.ahead for one in found])
        )
        where = fmean(one.where for one in found)
        yield f"- at equal {unit} ({where:.0f} {word}): {ours} has gained {won}, {theirs} {lost};"
        yield f"  {ours} is better by {ahead} in the number itself, whose starts may differ."


def besides(race: Race, runs: Runs, ours: str, theirs: str) -> Iterator[str]:
    """What the level was come to with: numbers that nobody raced for."""
    for number in race.beside:
        if not (found := beside(race, number, runs)):
            continue
        seeds = [one.seed for one in found]
        mine, others = (
            f"{interval(mean([last for _, last in rows], seeds))} ({fmean(first for first, _ in rows):.3g} untrained)"
            for rows in ([one.mine for one in found], [one.theirs for one in found])
        )
        yield f"- {number} at the level that {theirs} ends with: {ours} {mine},"
        yield f"  {theirs} {others}."


def row(race: Race, one: Lap) -> str:
    """One seed."""
    way = sign(race.better)
    cost = f"{one.mine:.0f}" if one.reached else f"not in {one.mine:.0f}"
    cost = "there from the start" if one.already else cost
    level = f"{way * one.level:.4g}" if one.rose else f"{way * one.level:.4g} (no gain)"
    return f"| {one.seed} | {way * one.start:.4g} | {signed(one.gain)} | {level} | {one.theirs:.0f} | {cost} |"


def ratio(found: Sequence[Lap]) -> str:
    """`23.1 [18.0, 29.6] times, 3 of 3 seeds reach it`; seeds without a level are counted apart."""
    rows = [one for one in found if one.rose]
    there, already = sum(one.reached for one in rows), sum(one.already for one in rows)
    seen = times([one.ratio for one in rows], [one.seed for one in rows])
    said = f"{seen.value:.3g}{ends(seen)} times" if seen.n else "no ratio"
    parts = [said, f"{there} of {len(rows)} seeds reach it"]
    parts += [f"{already} are there from the start, which counts as one update"] if already else []
    parts += [f"in {len(found) - len(rows)} more there was no gain to reach"] if len(rows) < len(found) else []
    return ", ".join(parts)


def drawing(study: Study, race: Race, runs: Runs) -> Iterator[str]:
    """How long a picture takes."""
    both = pairs(runs, race.run, race.against)
    if both and race.unit == "seconds":
        seen = times([other.each / one.each for one, other in both], [one.seed for one, _ in both])
        own, others = fmean(one.each for one, _ in both), fmean(other.each for _, other in both)
        yield f"- a picture takes {own:.3f} s against {others:.3f} s: {seen.value:.3g}{ends(seen)} times less"
        asked = (calls(study.run[name].draw) for name in (race.run, race.against))
        yield f"  ({' against '.join(map(str, asked))} calls of the network)."


def calls(draw: Drawing) -> int:
    """How often a picture asks the network: with guidance twice a step."""
    return draw.steps * (2 if draw.guidance_scale > 1 else 1)


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
