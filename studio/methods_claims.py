"""An ordering that a paper claims, as paired differences with intervals, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from studio.evaluation import bootstrap
from studio.evaluation.bootstrap import Interval
from studio.methods_values import CLIP_T, DRIFT, IDENTITY, NAMES, SILENT, TEXT, TRAITS, Table, Values, called

Verdict = Literal["holds", "does not hold", "undecided", "no data yet"]
LEAST = 5  # runs
HARD = ("composition", "attribute", "style")  # a colour, a second object, a style
NEAR = 0.02  # of identity that T-LoRA may lose
ORDER: tuple[Verdict, ...] = ("does not hold", "no data yet", "undecided", "holds")  # the worst first


@dataclass(frozen=True)
class Claim:
    """The mean of sum(weight x row) is above `above`. rows: label -> weight; sets: empty for all that call the subject;
    words: what is subtracted from what.
    """

    words: str
    number: str
    rows: Mapping[str, float]
    sets: tuple[str, ...] = ()
    above: float = 0.0

    def differences(self, table: Table) -> Values:
        """At every place that all rows have."""
        sets = self.sets or ((SILENT,) if self.number == DRIFT else ())
        parts = {label: called(table.get(label, {}).get(self.number, {}), sets) for label in self.rows}
        first = next(iter(parts.values()))
        common = [place for place in first if all(place in values for values in parts.values())]
        return {place: sum(weight * parts[label][place] for label, weight in self.rows.items()) for place in common}


@dataclass(frozen=True)
class Finding:
    """A claim beside what was measured. subjects: in how many of how many the mean is above; runs: of each row."""

    claim: Claim
    seen: Interval
    subjects: tuple[int, int]
    runs: int

    @property
    def verdict(self) -> Verdict:
        """By the interval alone; "undecided" too where it has no ends, and of fewer than `LEAST` runs."""
        if not self.seen.n:
            return "no data yet"
        if self.runs < LEAST:
            return "undecided"
        if self.seen.low > self.claim.above:
            return "holds"
        return "does not hold" if self.seen.high < self.claim.above else "undecided"


@dataclass(frozen=True)
class Ordering:
    """A sentence of a paper. ways: it holds where all claims of one way do; beside: claims shown without a say."""

    sentence: str
    ways: tuple[tuple[Claim, ...], ...]
    beside: tuple[Claim, ...] = ()

    def verdict(self, table: Table) -> Verdict:
        """The best way's worst claim; a way fails where one of its claims surely does."""
        return max((worst([found(claim, table).verdict for claim in way]) for way in self.ways), key=ORDER.index)

    @property
    def claims(self) -> list[Claim]:
        """All of them, each once."""
        return list({str(claim): claim for way in (*self.ways, self.beside) for claim in way}.values())


def ordering(sentence: str, *claims: Claim, beside: Sequence[Claim] = ()) -> Ordering:
    """One that holds where all of its claims do."""
    return Ordering(sentence, (claims,), tuple(beside))


def minus(number: str, one: str, other: str, sets: tuple[str, ...] = (), above: float = 0.0) -> Claim:
    """One row's mean minus another's."""
    return Claim(f"{one} - {other}, {NAMES.get(number, number)}", number, {one: 1.0, other: -1.0}, sets, above)


def text(sentence: str, one: str, other: str, sets: tuple[str, ...] = ()) -> Ordering:
    """One above another in prompt accuracy; by CLIP-T beside it."""
    return ordering(sentence, minus(TEXT, one, other, sets), beside=[minus(CLIP_T, one, other, sets)])


def identity(sentence: str, one: str, other: str) -> Ordering:
    """One above another in identity; by traits beside it."""
    return ordering(sentence, minus(IDENTITY, one, other), beside=[minus(TRAITS, one, other)])


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Of claims that must all hold."""
    return min(verdicts, key=ORDER.index)


def found(claim: Claim, table: Table) -> Finding:
    """What was measured of a claim."""
    values = claim.differences(table)
    by: dict[str, list[float]] = {}
    for place, value in values.items():
        by.setdefault(place.subject, []).append(value)
    above = sum(fmean(mine) > claim.above for mine in by.values())
    return Finding(claim, interval(values), (above, len(by)), len({place[:2] for place in values}))


def interval(values: Values) -> Interval:
    """The mean with the wider of two 95 % intervals: runs (subject x seed) drawn anew, and prompts drawn anew.

    Pictures of one run rise and fall together, and so do those of one prompt: either alone would be too sure.
    """
    numbers, places = list(values.values()), list(values)
    by_run = bootstrap.interval(numbers, [place[:2] for place in places])
    by_prompt = bootstrap.interval(numbers, [place[2:4] for place in places])
    return max(by_run, by_prompt, key=lambda seen: seen.high - seen.low if seen.n else 0.0)
