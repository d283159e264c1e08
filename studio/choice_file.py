"""RUN/choice.json: the marks of every checkpoint that was scored, what they are worth, and which one is recommended."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studio.choice import Marks, Ranking, Scale
from studio.evaluation.records import number, tidy
from studio.pipelines.errors import UsageError

NAME, VERSION = "choice.json", 1


@dataclass
class Ledger:
    """exam: which questions the marks answer; about: judge, prompts and seeds in words; weights: what was scored, by
    step; table: the candidates' worth; picked: step, strength, reason and numbers of the recommended one.
    """

    exam: str = ""
    scale: Scale = Scale((0.0, 1.0))
    marks: dict[tuple[int, float], Marks] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    weights: dict[int, str] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)
    picked: dict[str, Any] = field(default_factory=dict)

    def put(self, marks: Marks) -> None:
        """Keeps a candidate's marks."""
        self.marks[marks.order] = marks

    def get(self, step: int, strength: float, pictures: int) -> Marks | None:
        """A candidate's marks of so many pictures, if it was asked for as many."""
        found = self.marks.get((step, strength))
        return found.first(pictures) if found is not None and len(found.identity) >= pictures else None

    def forget(self, step: int, weights: str) -> None:
        """The marks of a step go when they are another adapter's."""
        if self.weights.get(step) != weights:
            self.marks = {order: marks for order, marks in self.marks.items() if order[0] != step}
            self.weights[step] = weights

    def rank(self, ranking: Ranking) -> None:
        """The candidates' worth as the table: numbers of equally many pictures, which `ranking` gives again."""
        self.table = [ranking.row(one) for one in range(len(ranking.marks))]

    def ranking(self) -> Ranking | None:
        """The candidates of the table as they were ranked; None where there are none. Raises DataError as that does."""
        rows = {(row["step"], row["strength"]): row.get("pictures", sys.maxsize) for row in self.table}
        known = [self.marks[order] for order in rows if order in self.marks]
        pictures = min((min(rows[marks.order], len(marks.identity)) for marks in known), default=0)
        prompts = len(self.about.get("prompts", []))
        if not pictures or not prompts:
            return None
        return Ranking([marks.first(pictures) for marks in known], self.scale, prompts)

    def to_json(self) -> str:
        """As JSON text."""
        said = {
            "version": VERSION, "picked": self.picked, "table": self.table, "exam": self.exam,
            "scale": asdict(self.scale), "about": self.about, "weights": self.weights,
            "marks": [asdict(marks) for _, marks in sorted(self.marks.items())],
        }  # fmt: skip
        return json.dumps(tidy(said), indent=1) + "\n"

    @classmethod
    def read(cls, file: Path) -> Ledger:
        """The file's; an empty one where there is none, or it cannot be read: then everything is scored again."""
        try:
            said = json.loads(file.read_text("utf-8"))
            found = [
                Marks(
                    row["step"], row["strength"],
                    tuple(map(number, row["identity"])), tuple(map(number, row["prompt"])), number(row["drift"]),
                )
                for row in said["marks"]
            ]  # fmt: skip
            identity, prompt = (tuple(said["scale"][name]) for name in ("identity", "prompt"))
            scale = Scale(identity, prompt, number(said["scale"].get("weight", 1.0)))
            weights = {int(step): sha for step, sha in said["weights"].items()}
            marks = {one.order: one for one in found}
            return cls(said["exam"], scale, marks, said["about"], weights, said["table"], said["picked"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()


def recommended(folder: Path) -> dict[str, Any]:
    """The recommended step, strength and reason of a run's folder. Raises UsageError where there is none."""
    found = Ledger.read(folder / NAME).picked
    if not found:
        raise UsageError(
            f"{folder.name}: no checkpoint is recommended; a run with --save-every scores its checkpoints, and "
            "--choice.score always scores a single one"
        )
    return found


def said(folder: Path) -> list[str]:
    """The recommendation of a run's folder in words, for people; nothing where there is none."""
    found = Ledger.read(folder / NAME).picked
    return [f"recommended: {found['reason']} (choice.png)"] if found else []
