"""What was measured of a run's checkpoints, kept in its folder: `measured.json`, row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from studio.evaluation import bootstrap
from studio.evaluation.bootstrap import Interval
from studio.store import Run

FILE = "measured.json"
FRESH = "fresh"
DIGITS = 6
Each = dict[str, list[list[float]]]


@dataclass(frozen=True)
class Row:
    """One checkpoint's numbers. kind: "" for the fixed seeds, "fresh" for others; seconds: of drawing one picture;
    each: by number every picture's, a list for each prompt.
    """

    step: int
    sampler_steps: int
    kind: str
    numbers: dict[str, float]
    seconds: float
    pictures: int
    each: Each = field(default_factory=dict)


@dataclass
class Sheet:
    """All rows of a run."""

    rows: list[Row] = field(default_factory=list)

    @staticmethod
    def read(run: Run) -> Sheet:
        """Of a run's folder; empty where there is none."""
        file = run.folder / FILE
        return Sheet([Row(**row) for row in json.loads(file.read_text("utf-8"))] if file.is_file() else [])

    def write(self, run: Run) -> None:
        """Into the run's folder."""
        run.write(FILE, json.dumps([asdict(row) for row in self.rows]).replace("}, {", "},\n {") + "\n")

    def get(self, step: int, sampler_steps: int, kind: str = "") -> Row | None:
        """A row that is there."""
        place = (step, sampler_steps, kind)
        return next((row for row in self.rows if (row.step, row.sampler_steps, row.kind) == place), None)

    def steps(self, sampler_steps: int, kind: str = "") -> dict[int, dict[str, float]]:
        """The numbers by optimizer step."""
        rows = sorted((row for row in self.rows if row.kind == kind), key=lambda row: row.step)
        return {row.step: row.numbers for row in rows if row.sampler_steps == sampler_steps}

    def changes(self, number: str, step: int, sampler_steps: int) -> list[tuple[int, float]]:
        """(prompt, by how much a picture's number changed since step 0) of every picture: pairs of equal noise."""
        start, end = self.get(0, sampler_steps), self.get(step, sampler_steps)
        if start is None or end is None:
            return []
        both = zip(start.each.get(number, ()), end.each.get(number, ()), strict=False)
        return [(row, new - old) for row, pair in enumerate(both) for old, new in zip(*pair, strict=True)]


def grouped(values: Sequence[float], count: int) -> list[list[float]]:
    """Values of pictures that lie prompt by prompt, `count` of each."""
    return [
        [round(float(value), DIGITS) for value in values[row : row + count]] for row in range(0, len(values), count)
    ]


def gain(changes: Sequence[tuple[int, float]], way: float) -> Interval:
    """The mean change, a rise is good with way = 1, and its 95 % interval by a bootstrap over prompts."""
    return bootstrap.interval([way * change for _, change in changes], [prompt for prompt, _ in changes])
