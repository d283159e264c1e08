"""What a run by rewards saw of itself: rewards, held-out judges, diversity and distance by step, as panels to draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

START, HELD = "start/", "heldout/"
TRAINED, ASIDE, BEST, BACK = "reward", "reward/heldout-prompts", "guard/best", "guard/back"
TRAINING = "while training"
SPREAD = ("diversity", "diversity/across")
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Panel:
    """One drawing: a title, and lines by name."""

    title: str
    lines: dict[str, Points]


@dataclass(frozen=True)
class Course:
    """values: number -> step -> value; best: the step of the best look, None without one; stop: (step, why) where the
    guard ended the run; back: the step it went back to.
    """

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    best: int | None = None
    stop: tuple[int, str] | None = None
    back: int | None = None

    @property
    def looks(self) -> int:
        """How often somebody looked, the start left out."""
        return sum(step > 0 for step in self.values.get(ASIDE, {}))

    def points(self, name: str) -> Points:
        """A number over steps."""
        return sorted(self.values.get(name, {}).items())

    def panels(self) -> Iterator[Panel]:
        """What there is to draw: rewards, a panel for each judge, diversity, distance."""
        judges = sorted(name for name in self.values if name.startswith(HELD))
        wanted = [
            ("trained reward", {TRAINING: TRAINED, "held-out prompts": ASIDE}),
            *((f"held-out {name.removeprefix(HELD)}", {"held-out prompts": name}) for name in judges),
            ("diversity", dict(zip(("within a prompt", "across prompts"), SPREAD, strict=True))),
            ("vendi: different pictures", {"all": "vendi"}),
            ("kl: distance from the start", {"kl": "kl"}),
        ]
        for title, names in wanted:
            lines = {label: found for label, name in names.items() if (found := self.points(name))}
            if lines:
                yield Panel(title, lines)
