"""The guard of a run by rewards: held-out prompts and judges, diversity, distance from the base; stop and go back.

At every look the same prompts are drawn with the same seeds. A look is good while its held-out score is no more than
`fall` below the best one, its pictures differ by no less than the share `diversity` of what they did at the start, and
kl is within its bound. The held-out score is the weighted mean of the judges, each in standard deviations of its own
values over the start's pictures: a share of the best score would mean nothing for scores that may be negative, or begin
at 20. A fall counts only where it is also twice its own standard error, picture by picture. After `patience` looks in a
row that are not good the adapter gets the weights of the best look back, to the last bit, and the run ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from studio.pipelines import rewards
from studio.pipelines.protocols import Adapter
from studio.pipelines.reward_guard_eye import Draw, Eye, shots
from studio.pipelines.reward_guard_judges import judges
from studio.pipelines.reward_guard_look import Look
from studio.pipelines.reward_guard_settings import Guard
from studio.pipelines.reward_guard_variety import variety
from studio.pipelines.reward_guard_verdict import Bounds

__all__ = ["Guard", "Seen", "Watch"]

MEMORY, BEST, BACK = "guard", "guard/best", "guard/back"  # in the run's memory; the numbers of a look


@dataclass(frozen=True)
class Seen:
    """What a look found, for the run's events. stop: why the run ends here; the adapter is back at its best look."""

    numbers: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    stop: str = ""


@dataclass
class Watch:
    """The guard at work. draw, measure_kl, references: as `Eye` has them; memory: the run's; prompts: held-out ones;
    embedded: the pictures are of the studio's own small world; last: the step that the run ends with; learnt: the
    prompts that the run learns on.
    """

    config: Guard
    reward: rewards.Reward
    draw: Draw
    measure_kl: Callable[[], float] | None
    memory: dict[str, Any]
    adapter: Adapter
    prompts: Sequence[str]
    references: Sequence[Tensor] | None = None
    embedded: bool = False
    last: int = 0
    learnt: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)  # to be said after the next step

    @cached_property
    def eye(self) -> Eye:
        """What looks. Raises UsageError for judges that cannot be, or no prompt."""
        config, device = self.config, self.adapter.parameters()[0].device
        asked = shots(self.prompts, config.pictures, config.prompts, config.seed)
        by = judges(config.terms, self.reward.names, self.embedded, device)
        seen_by = variety(self.embedded, device)
        return Eye(asked, self.draw, self.reward, by, seen_by, self.measure_kl, self.references, device)

    @property
    def bounds(self) -> Bounds:
        """What a good look keeps to."""
        return Bounds(self.config.fall, self.config.diversity, self.config.kl, self.eye.judges.weights)

    @property
    def kept(self) -> dict[str, Any]:
        """What the guard remembers; the run's memory may be another one after it was resumed."""
        return self.memory.setdefault(MEMORY, {})

    def begin(self, step: int = 0) -> None:
        """The first look, kept in memory: a resumed run does not look again, unless its looks would be others."""
        if self.kept.get("asked") == self.eye.asked:
            return
        anew = f"step {step}: the guard looks at something else than before and begins anew" if self.kept else ""
        self.memory[MEMORY] = {"asked": self.eye.asked, "looked": step, "bad": 0, "told": False, "hacked": False}
        start, sizes, said = self.eye.look(step, {})
        self.memory[MEMORY] |= {"start": start.pack(), "peak": start.pack(), "sizes": sizes}
        self.keep(start)
        self.notes += [*filter(None, (anew, self.introduction())), *self.eye.judges.notes, *said]

    def introduction(self) -> str:
        """Who looks at what."""
        by, prompts = ", ".join(self.eye.judges.weights) or "nobody", set(self.eye.shots[0])
        aside = "held-out prompts" if prompts - set(self.learnt) else "learnt prompts (prompts.held-out is empty)"
        return (
            f"the guard looks at {self.config.pictures} pictures of {len(prompts)} {aside} every "
            f"{self.config.every} steps: scored by {by}, diversity by {self.eye.variety.name}"
        )

    def due(self, step: int) -> bool:
        """Whether there is something to see here, or to be said of the first look."""
        return bool(self.notes) or self.looks(step)

    def looks(self, step: int) -> bool:
        """Whether a look belongs here: `every` steps have gone by, perhaps more where a step may not be saved."""
        every = self.config.every
        return step // every > self.kept["looked"] // every or step == self.last

    def see(self, step: int) -> Seen:
        """A look at the adapter after `step` optimizer steps, and what follows of it; what is to be said, anyhow."""
        kept, messages, self.notes = self.kept, tuple(self.notes), []
        if not self.looks(step):
            return Seen(messages=messages)
        kept["looked"] = step
        start, peak, best = (Look.read(kept[name]) for name in ("start", "peak", "best_look"))
        now, _, said = self.eye.look(step, kept)
        messages = (*messages, *filter(None, [now.told(start)]))
        numbers = now.numbers()
        if not kept["told"]:
            numbers |= {f"start/{name}": value for name, value in start.numbers().items()}
            kept["told"] = True
        reasons = list(self.bounds.broken(now, peak, start))
        kept["bad"] = kept["bad"] + 1 if reasons else 0
        warnings = [*said, *self.doubt(now, peak, start)]
        if kept["bad"] >= self.config.patience:
            return Seen(numbers | {BACK: best.step}, tuple(warnings), messages, self.back(best, reasons))
        if reasons:
            row = f"look {kept['bad']} of {self.config.patience} in a row before the run ends"
            warnings.append(f"step {step}: {'; '.join(reasons)} ({row})")
        else:
            self.advance(now, peak, best, start)
        parting = self.bounds.parting(now, Look.read(kept["best_look"]), start) if step == self.last else []
        return Seen(numbers | {BEST: kept["best_look"]["step"]}, tuple(warnings), (*messages, *parting))

    def advance(self, now: Look, peak: Look, best: Look, start: Look) -> None:
        """A good look may be the one with the best held-out score, and the one to come back to."""
        higher, better = self.bounds.advance(now, peak, best, start)
        if higher:
            self.kept["peak"] = now.pack()
        if better:
            self.keep(now)

    def doubt(self, now: Look, peak: Look, start: Look) -> list[str]:
        """That the reward is perhaps cheated; once, until it is no longer so."""
        worse, known = self.bounds.hacked(now, peak, start), self.kept["hacked"]
        self.kept["hacked"] = bool(worse)
        if known or not worse:
            return []
        return [f"step {now.step}: the trained reward rises while {', '.join(worse)} get worse: it may be cheated"]

    def back(self, best: Look, reasons: Sequence[str]) -> str:
        """The best look's weights are the adapter's again; why."""
        self.adapter.load_state_dict(self.kept["best"])
        self.kept["bad"] = 0
        return f"{'; '.join(reasons)}: back to step {best.step}"

    def keep(self, look: Look) -> None:
        """The adapter as it is now is what would be gone back to."""
        state = {name: tensor.detach().clone() for name, tensor in self.adapter.state_dict().items()}
        self.kept.update(best=state, best_look=look.pack())
