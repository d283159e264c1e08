"""The recommended checkpoint of a run with its reason, and every checkpoint and strength that was scored as a grid."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.pipelines.confine import is_inside
from studio.store import Run
from studio.ui.blind_pairs import calls, filled

FILE, PICTURES = "choice.json", Path("choice") / "pictures"
PICK = "First make the recommended checkpoint the run's adapter"
POINTS = (
    "Points, 0 to 100: the mean of the likeness to the subject (identity; 0: as the base model, 100: as the reference "
    "pictures among themselves) and of prompt accuracy (the share of what the prompts ask for that the pictures show); "
    "in brackets the 95 % interval. Step: when the checkpoint was saved. Strength: how much of the adapter is added to "
    "the base model, 1 as it was trained."
)


@dataclass(frozen=True)
class Candidate:
    """A checkpoint at a strength. points: 0..100, with their 95 % interval; identity, prompt: 0..1; folder: its
    pictures; picked: whether it is recommended.
    """

    step: int
    strength: float
    points: float
    low: float
    high: float
    identity: float
    prompt: float
    folder: Path
    picked: bool = False

    def line(self) -> str:
        """`88.5 points (81.2 to 94.9), identity 0.775, prompt accuracy 100 %`."""
        between = f" ({self.low:.1f} to {self.high:.1f})" if self.low == self.low else ""
        return f"{self.points:.1f} points{between}, identity {self.identity:.3f}, prompt accuracy {self.prompt:.0%}"


@dataclass(frozen=True)
class Choice:
    """What a run's choice.json says. reason: a sentence; exported: whether it is the run's adapter; called: its
    subject's trigger and class word.
    """

    reason: str = ""
    exported: bool = False
    prompts: list[str] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    called: tuple[str, str] = ("", "")

    @property
    def steps(self) -> list[int]:
        """The checkpoints, the first one first."""
        return sorted({one.step for one in self.candidates})

    @property
    def strengths(self) -> list[float]:
        """The strengths, the weakest first."""
        return sorted({one.strength for one in self.candidates})

    def at(self, step: int, strength: float) -> Candidate | None:
        """The candidate in a cell of the grid; None where that strength was not tried."""
        return next((one for one in self.candidates if (one.step, one.strength) == (step, strength)), None)

    def asked(self, prompt: int) -> str:
        """A prompt's words, with what the run calls its subject; "" where it has not so many."""
        return filled(self.prompts[prompt], " ".join(filter(None, self.called))) if prompt < len(self.prompts) else ""

    def seeds(self) -> list[str]:
        """The seeds that pictures were drawn with."""
        files = [path for one in self.candidates[:1] for path in one.folder.glob("choice-00-*.png")]
        return sorted(path.stem.rpartition("-")[2] for path in files)

    def picture(self, one: Candidate, prompt: int, seed: str) -> Path | None:
        """A candidate's picture of a prompt (0 is the first) and a seed; None where it is not there."""
        path = one.folder / f"choice-{prompt:02}-{seed}.png"
        return path if path.is_file() and is_inside(one.folder, path) else None

    def said(self) -> str:
        """The recommendation in words; "" where there is none."""
        if not self.reason:
            return ""
        use = f"To use it, tick *{PICK}* above and press *Evaluate*."
        given = "It is what the run's adapter file holds." if self.exported else use
        return f"Recommended: {self.reason}. {given}"


def read(folder: Path) -> Choice:
    """What a run's folder says; an empty choice where nothing was scored, or the file is damaged."""
    try:
        said = json.loads((folder / FILE).read_text("utf-8"))
        picked, about = said["picked"], said["about"]
        wanted = (picked.get("step"), picked.get("strength"))
        rows = [candidate(folder, row, wanted) for row in said["table"]]
        prompts, called = list(map(str, about.get("prompts", []))), calls(Run(folder))
        return Choice(str(picked.get("reason", "")), bool(picked.get("exported")), prompts, rows, called)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Choice()


def candidate(folder: Path, row: dict[str, Any], wanted: tuple[Any, Any]) -> Candidate:
    """A row of the table."""
    step, strength = int(row["step"]), float(row["strength"])
    points, low, high, identity, prompt = (
        float("nan") if row[k] is None else float(row[k]) for k in ("points", "low", "high", "identity", "prompt")
    )
    place = folder / PICTURES / f"{step:06}-{strength:g}"
    return Candidate(step, strength, points, low, high, identity, prompt, place, (step, strength) == wanted)
