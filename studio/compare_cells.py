"""The cells of a comparison: trainers x settings x seeds, each with its name and the config of its run."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio import registry, subjects
from studio.compare_config import Comparison
from studio.config import RunConfig, check_paths, make, merge
from studio.mistakes import keys, nearest
from studio.pipelines.errors import UsageError
from studio.store import Run

MOST = 1000  # cells
LONGEST = 90  # letters of a name


@dataclass(frozen=True)
class Cell:
    """One run of the comparison. varied: the settings that differ from cell to cell, by dotted name.

    In experiments: subject, pictures: what it learns (0: all pictures); own_steps: the experiment's, 0: the budget's;
    uses: (experiment, label) of the table rows that it belongs to.
    """

    name: str
    trainer: str
    varied: Mapping[str, Any]
    config: RunConfig
    subject: str = ""
    pictures: int = 0
    own_steps: int = 0
    uses: tuple[tuple[str, str], ...] = ()

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def setting(self) -> str:
        """What its repetitions with other seeds share: a row of the result."""
        return " ".join([self.trainer, *(f"{key}={said(value)}" for key, value in self.varied.items())])

    @property
    def run(self) -> Run:
        """Its folder."""
        return Run(self.config.runs / self.config.run)

    @property
    def file(self) -> Path:
        """The config that `studio train` is given."""
        return self.config.runs / f"{self.name}.toml"

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return int(self.config.settings.steps)

    def of(self, steps: int) -> Cell:
        """The same cell with so many steps."""
        settings = self.config.settings.model_copy(update={"steps": steps})
        return replace(self, config=self.config.model_copy(update={"settings": settings}))


def plan(comparison: Comparison, runs: Path, file: Path) -> list[Cell]:
    """All cells, in the order in which they are trained: every setting once, then the next seed.

    Steps are the trainer's default until the budget says otherwise. runs: the comparison's own folder; file: named in
    messages. Raises UsageError for settings a trainer does not have, values out of bounds, two cells of one name;
    DataError for a subject that does not exist.
    """
    count = len(comparison.seeds) * sum(math.prod(map(len, own(comparison, t).values())) for t in comparison.trainers)
    if count > MOST:
        raise UsageError(f"{file}: {count} cells; at most {MOST}: fewer values in [grid]")
    cells = [
        cell
        for seed in comparison.seeds
        for trainer in comparison.trainers
        for cell in of_trainer(comparison, trainer, seed, runs, file)
    ]
    if len({cell.name for cell in cells}) < len(cells):
        raise UsageError(f"{file}: two cells are the same: look for a setting in [grid] and in a trainer's table too")
    return cells


def own(comparison: Comparison, trainer: str) -> dict[str, list[Any]]:
    """The whole grid of one trainer."""
    return {**comparison.grid, **comparison.grids.get(trainer, {})}


def of_trainer(comparison: Comparison, trainer: str, seed: int, runs: Path, file: Path) -> Iterator[Cell]:
    """The cells of one trainer and seed."""
    refuse_unknown(comparison, trainer, file)
    grid = own(comparison, trainer)
    for values in itertools.product(*grid.values()):
        varied = dict(zip(grid, values, strict=True))
        settings = merge(comparison.base, comparison.own.get(trainer, {}))
        for key, value in varied.items():
            settings = merge(settings, nested(key, value))
        name = named(trainer, varied, seed)
        flags = {"model": comparison.model, "run": name, "runs": runs, "seed": seed, "settings": settings}
        config = make(trainer, flags=flags, file=str(file))
        check_paths(file, config, lambda flag: "")
        yield Cell(name, trainer, varied, subjects.resolve(config).resolved(name, runs))


def refuse_unknown(comparison: Comparison, trainer: str, file: Path) -> None:
    """UsageError for a key of the grid that is no setting of the trainer, or a table of settings."""
    for where, grid in (("grid", comparison.grid), (f"{trainer}.grid", comparison.grids.get(trainer, {}))):
        for key in grid:
            refuse_key(key, where, trainer, comparison.trainers, file)


def refuse_key(key: str, where: str, trainer: str, trainers: Sequence[str], file: Path) -> None:
    """UsageError for a key of a grid that is no setting of the trainer, or a table. trainers: who else may have it."""
    known = list(keys(registry.trainer(trainer).Config))
    tables = {key.rpartition(".")[0]: key for key in known if "." in key}
    if key in tables:
        raise UsageError(f"{file}: [{where}] {key} is a table: name one of its settings, such as {tables[key]}")
    if key not in known:
        others = [t for t in trainers if key in keys(registry.trainer(t).Config)]
        hint = nearest(key, known)
        meant = f"; write it into [{others[0]}.grid]" if others else f"; did you mean '{hint}'?" if hint else ""
        raise UsageError(f"{file}: [{where}] {key}: {trainer} has no such setting{meant}")


def nested(key: str, value: Any) -> dict[str, Any]:
    """A dotted name as tables within tables."""
    for word in reversed(key.split(".")):
        value = {word: value}
    return dict(value)


def named(trainer: str, varied: Mapping[str, Any], seed: int) -> str:
    """A cell's name, decided by what it is and not by its place: more values in the grid rename nothing."""
    parts = [f"{shortest(key, varied)}-{plain(value)}" for key, value in varied.items()]
    name = "-".join([trainer, *parts, f"seed-{seed}"])
    if len(name) <= LONGEST:
        return name
    return f"{trainer}-{digest([trainer, *map(str, varied.items())])}-seed-{seed}"


def shortest(key: str, among: Mapping[str, Any]) -> str:
    """A dotted name's last word where no other ends in it."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in among) == 1 else key


def said(value: Any) -> str:
    """A value as a person writes it."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def plain(value: Any) -> str:
    """A value as a part of a folder's name; a hash where letters had to go, so that different values differ."""
    text = said(value)
    clean = re.sub(r"[^\w.-]+", "-", text).strip("-.")[:24]
    return clean if clean == text else f"{clean}-{digest(text)}".strip("-")


def digest(value: Any) -> str:
    """Eight letters for a value."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
