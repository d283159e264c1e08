"""Which checkpoint, at which strength: decided from marks of pictures that every candidate drew with the same seeds.

Every candidate is worth points, 0 to 100: the mean of its identity and its share of prompt accuracy, identity counted
`weight` times. A person who would rather have the subject's likeness than the prompt's wishes gives it more weight.

    kept   = (prompt score - floor) / (top - floor); for exact prompt accuracy floor = 0 and top = 1
    points = 100 * (kept + weight * identity) / (1 + weight)

The rule: of the candidates near the best one, those which are not on the falling side of prompt accuracy (an earlier or
weaker one of them follows its prompts significantly better), the earliest; of that step, the weakest. Near is one that
no other beats significantly, whose identity is not significantly lower than the best one's, and whose points are less
than one standard error and less than half a point lower; where none differs significantly from any other, all are near.
Standard errors and 95 % intervals are those of paired differences, by a bootstrap over the prompts
(`studio.evaluation.bootstrap`); drift is told and not decided on.

Who takes part: every kept checkpoint at strength 1, and the leaders at other strengths too, all with equally many
pictures. Points hardly tell candidates apart that trade a little identity for a lot of prompt accuracy, and a strength
moves a candidate along that same trade. So the leaders are, first, the pick and the obedient one: of those on the
Pareto front that no other beats significantly, the one with the highest prompt accuracy. The others follow by points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from studio.evaluation import bootstrap
from studio.pipelines.errors import DataError

GIVEN_UP = 0.5  # points, for an earlier one: noise of few pictures must not cost more
SMALL = 1e-9  # differences of means that are only rounding
Kind = Literal["identity", "prompt", "points"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Marks:
    """What an adapter reached: a number per picture, in the same order for all; drift: of its class without trigger.

    step 0 is the base model.
    """

    step: int
    strength: float
    identity: tuple[float, ...]
    prompt: tuple[float, ...]
    drift: float = float("nan")

    @property
    def order(self) -> tuple[int, float]:
        """Earlier first, then weaker."""
        return self.step, self.strength

    @property
    def label(self) -> str:
        """`step 400`, or `step 400 at strength 0.8`."""
        return f"step {self.step}" + ("" if self.strength == 1 else f" at strength {self.strength:g}")

    def first(self, pictures: int) -> Marks:
        """Those of the first pictures alone."""
        return Marks(self.step, self.strength, self.identity[:pictures], self.prompt[:pictures], self.drift)


@dataclass(frozen=True)
class Scale:
    """identity: the base model's, and that of the references among themselves; prompt: which score counts as nothing,
    and which as everything; weight: how much identity counts beside it.
    """

    identity: tuple[float, float]
    prompt: tuple[float, float] = (0.0, 1.0)
    weight: float = 1.0

    @classmethod
    def of(cls, base: Marks, ceiling: float, prompt: tuple[float, float] = (0.0, 1.0), weight: float = 1.0) -> Scale:
        """From the base model's marks and the identity of the references among themselves."""
        return cls((float(np.nanmean(base.identity)), ceiling), prompt, weight)

    def kept(self, means: Array) -> Array:
        """The prompt score's share, 0 to 1."""
        low, high = self.prompt
        return np.clip((means - low) / max(high - low, SMALL), 0, 1)

    def points(self, identity: Array, kept: Array) -> Array:
        """0 to 100, from means."""
        return 100 * (kept + self.weight * np.clip(identity, 0, 1)) / (1 + self.weight)


@dataclass(frozen=True)
class Gap:
    """A paired difference: its mean, standard error and 95 % interval."""

    mean: float
    error: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether 0 is outside the interval."""
        return self.low > SMALL or self.high < -SMALL


@dataclass
class Ranking:
    """Candidates by step and strength, their means over the pictures, and over the bootstrap's resamples.

    prompts: whose picture is whose, by number; 0: each has its own. Prompt means are shares of `scale`. The order in
    which candidates, prompts or pictures are given changes nothing. Raises DataError when no picture was scored.
    """

    marks: list[Marks]
    scale: Scale
    prompts: int = 0
    means: dict[Kind, Array] = field(init=False)
    drawn: dict[Kind, Array] = field(init=False)

    def __post_init__(self) -> None:
        self.marks = sorted(self.marks, key=lambda marks: marks.order)
        count = len(self.marks[0].identity)
        rows = np.array([[m.identity, m.prompt] for m in self.marks], float)
        prompts = np.arange(count) % (self.prompts or count)
        usable = np.isfinite(rows).all((0, 1))
        if not usable.any():
            raise DataError("no picture of the checkpoints could be scored: they hold no finite values")
        groups = [np.flatnonzero(usable & (prompts == number)) for number in np.unique(prompts[usable])]
        groups = [group[[at]] for group in groups for at in range(len(group))] if len(groups) == 1 else groups
        sums = np.stack([rows[:, :, np.sort(group)].sum(-1) for group in groups], -1)
        sizes = np.array([len(group) for group in groups], float)
        order = np.lexsort((*sums.reshape(-1, len(groups)), sizes))
        sums, sizes = sums[:, :, order], sizes[order]
        self.means = self._means(sums.sum(-1) / sizes.sum())
        weights = bootstrap.draws(len(groups), 0).numpy()
        self.drawn = self._means(np.einsum("ckn,bn->ckb", sums, weights) / (weights @ sizes))
        self.wider = bootstrap.spread(len(groups)) if len(groups) > 1 else math.inf

    def _means(self, both: Array) -> dict[Kind, Array]:
        """By kind, from identity and prompt score `[C, 2, ...]`."""
        identity, kept = both[:, 0], self.scale.kept(both[:, 1])
        return {"identity": identity, "prompt": kept, "points": self.scale.points(identity, kept)}

    def gap(self, kind: Kind, one: int, other: int) -> Gap:
        """Candidate `one` minus candidate `other`."""
        return self._spread(
            self.means[kind][one] - self.means[kind][other], self.drawn[kind][one] - self.drawn[kind][other]
        )

    def own(self, kind: Kind, one: int) -> Gap:
        """A candidate's own mean with its interval, which stays where the numbers can be."""
        found = self._spread(self.means[kind][one], self.drawn[kind][one])
        least, most = {"points": (0.0, 100.0), "prompt": (0.0, 1.0)}.get(kind, (-math.inf, math.inf))
        bounds = {name: min(max(getattr(found, name), least), most) for name in ("low", "high")}
        return found if self.wider == math.inf else replace(found, **bounds)

    def _spread(self, mean: float, drawn: Array) -> Gap:
        """Percentiles of few prompts are too narrow: they are spread (`studio.evaluation.bootstrap`)."""
        if self.wider == math.inf:  # one picture says nothing about its noise
            return Gap(float(mean), math.inf, -math.inf, math.inf)
        low, high = (float(mean + self.wider * (at - mean)) for at in np.quantile(drawn, (0.025, 0.975)))
        return Gap(float(mean), float(drawn.std()), low, high)

    @property
    def best(self) -> int:
        """The one with most points; of equals the earliest and weakest."""
        points = self.means["points"]
        return int(np.argmax(points >= points.max() - SMALL))

    def near(self) -> list[int]:
        """Those that may be as good as the best."""
        best, beaten, found = self.best, self.beaten(), []
        for one in range(len(self.marks)):
            gap = self.gap("points", best, one)
            close = not beaten or gap.mean <= min(gap.error, GIVEN_UP) + SMALL
            if close and one not in beaten and (one == best or not self.gap("identity", best, one).low > SMALL):
                found.append(one)
        return found

    def beaten(self) -> set[int]:
        """Those that another one has significantly more points than; never the best."""
        found: set[int] = set()
        for one in range(len(self.marks) if self.wider < math.inf else 0):
            means = self.means["points"] - self.means["points"][one]
            low = np.quantile(self.drawn["points"] - self.drawn["points"][one], 0.025, axis=1)
            if (means + self.wider * (low - means)).max() > SMALL and one != self.best:
                found.add(one)
        return found

    def pick(self) -> int:
        """The rule."""
        near = self.near()
        return next(one for one in near if not any(self.falls(one, before) for before in near if before < one))

    def falls(self, one: int, before: int) -> bool:
        """Whether `one` follows its prompts significantly worse than one before it."""
        return self.gap("prompt", before, one).low > SMALL

    @property
    def obedient(self) -> int:
        """Of the front's members that no other beats significantly, the one that follows its prompts best."""
        beaten, prompt = self.beaten(), self.means["prompt"]
        some = [one for one in self.front() if one not in beaten] or [self.best]
        return max(some, key=lambda one: (prompt[one], -one))

    def leaders(self, count: int) -> list[int]:
        """The most promising ones: the pick, the obedient one, then by points."""
        order = sorted(range(len(self.marks)), key=lambda one: (-self.means["points"][one], one))
        return list(dict.fromkeys([self.pick(), self.obedient, *order]))[:count]

    def front(self) -> list[int]:
        """Those that no other one beats in identity and prompt score both."""
        x, y = self.means["identity"], self.means["prompt"]
        everyone = range(len(self.marks))
        return [
            a for a in everyone
            if not any(x[b] >= x[a] and y[b] >= y[a] and (x[b], y[b]) != (x[a], y[a]) for b in everyone)
        ]  # fmt: skip

    def row(self, one: int) -> dict[str, Any]:
        """A candidate's numbers, for a file or an event."""
        points, marks = self.own("points", one), self.marks[one]
        numbers: dict[str, float] = {kind: float(values[one]) for kind, values in self.means.items()}
        numbers |= {"low": points.low, "high": points.high, "drift": marks.drift}
        told = {name: round(value, 4) if math.isfinite(value) else None for name, value in numbers.items()}
        return {"step": marks.step, "strength": marks.strength, **told, "pictures": len(marks.identity)}
