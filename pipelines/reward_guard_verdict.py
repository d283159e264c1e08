"""Whether a look is still good, and in which words it is not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from studio.pipelines.reward_guard_change import better, change, paired
from studio.pipelines.reward_guard_look import Look, mean

SURE = 2.0  # standard errors
SAME = 0.05  # units: looks whose held-out scores are as near as that to the best are as good
KINDS = {"diversity": "the pictures of one prompt", "diversity/across": "the pictures of different prompts"}
TINY = 1e-9


@dataclass(frozen=True)
class Bounds:
    """fall: units; diversity: share of the start's, 0 for none; kl: 0 for none; weights: of the held-out judges."""

    fall: float
    diversity: float
    kl: float
    weights: Mapping[str, float]

    def broken(self, now: Look, peak: Look, start: Look) -> Iterator[str]:
        """Why a look is not good; nothing where it is. peak: the good look with the best held-out score."""
        rise, error = change(now, peak, start, self.weights)
        if -rise > max(self.fall, SURE * error):
            yield self.fallen(now, peak, start)
        if 2 * now.broken >= len(now.trained):
            yield f"{now.broken} of {len(now.trained)} pictures hold values that are no numbers"
        for name, pictures in KINDS.items():
            before, after = start.spread.get(name, 0.0), now.spread.get(name, math.nan)
            if before > TINY and after < self.diversity * before:
                yield f"{pictures} differ by {after:.3g}, {after / before:.0%} of the {before:.3g} at the start"
        if self.kl and now.kl is not None and not now.kl <= self.kl:
            yield f"kl, the distance from where the run began, is {now.kl:.3g}, above the bound of {self.kl:g}"

    def fallen(self, now: Look, peak: Look, start: Look) -> str:
        """Which held-out judges have fallen, from where, and what the trained reward did meanwhile."""
        worse = {name: paired(better(now, peak, start, name, weight))[0] for name, weight in self.weights.items()}
        names = sorted((name for name in worse if worse[name] < 0), key=lambda name: worse[name])
        less = {name: ", of which less is better," if self.weights[name] < 0 else "" for name in names}
        said = [
            moved(f"held-out {name}{less[name]}", mean(peak.held[name]), mean(now.held[name]), peak.step)
            for name in names
        ]
        trained = moved("the trained reward", mean(peak.trained), mean(now.trained))
        return f"{' and '.join(said)} while {trained}"

    def hacked(self, now: Look, peak: Look, start: Look) -> list[str]:
        """The held-out judges that are surely worse while the trained reward is surely better; [] below two."""
        rise, error = paired(now.trained - peak.trained)
        if not rise > SURE * error:
            return []
        falls = {name: paired(better(now, peak, start, name, weight)) for name, weight in self.weights.items()}
        worse = [name for name, (gain, error) in falls.items() if -gain > max(SURE * error, SAME)]
        return worse if len(worse) > 1 else []

    def advance(self, now: Look, peak: Look, best: Look, start: Look) -> tuple[bool, bool]:
        """Whether a good look is the new peak, and whether its weights are those to come back to.

        They are the look's with the highest trained reward among those that are as good as the peak: where the held-out
        score stays, nothing is to be gained by going back to the beginning.
        """
        rise, _ = change(now, peak, start, self.weights)
        return rise > 0, rise > 0 or (rise >= -SAME and not mean(now.trained) < mean(best.trained))

    def parting(self, now: Look, best: Look, start: Look) -> list[str]:
        """At the run's end: that an earlier look was clearly better, where it was."""
        rise, error = change(now, best, start, self.weights)
        reasons = list(self.broken(now, best, start))
        if not reasons and not -rise > max(SAME, SURE * error):
            return []
        said = "; ".join(reasons) or self.fallen(now, best, start)
        return [f"step {best.step} was better than the last one: {said}; --steps {best.step} ends there"]


def moved(what: str, before: float, after: float, step: int | None = None) -> str:
    """`what fell from 0.61 (step 40) to 0.52`."""
    if not (math.isfinite(before) and math.isfinite(after)):
        return f"{what} could not be scored"
    verb = "rose" if after > before else "fell" if after < before else "stayed"
    where = "" if step is None else f" (step {step})"
    return f"{what} {verb} from {before:.3g}{where} to {after:.3g}"
