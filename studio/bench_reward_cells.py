"""The runs of the benchmark of rewards: a recipe and a seed each, an ordinary run in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from studio.bench_reward_config import Recipe, Study, Trial
from studio.bench_reward_sheet import Sheet, gain
from studio.config import RunConfig, layer, make, merge
from studio.pipelines.errors import UsageError
from studio.store import Run

FORWARD, BACKWARD = 0.01, 0.0215  # seconds of one core for a picture of the embedded model; measured on an Intel Xeon
STEP, TAUGHT, START = 1.0, 0.1, 40.0  # seconds that a step with pictures, one without and a run take besides


@dataclass(frozen=True)
class Cell:
    """A recipe and a seed. out: the folder of all runs; file: of the study, where relative configs lie."""

    study: Study
    recipe: str
    seed: int
    out: Path
    file: Path

    @property
    def about(self) -> Recipe:
        """The recipe."""
        return self.study.run[self.recipe]

    @property
    def name(self) -> str:
        """Of the run and its folder."""
        return f"{self.recipe}-{self.seed}"

    @property
    def run(self) -> Run:
        """Its folder, whether it is there or not."""
        return Run(self.out.absolute() / self.name)

    @property
    def done(self) -> bool:
        """Whether it is trained to its end; a guard's end is one."""
        return self.run.config_file.exists() and self.run.last("done") is not None

    @cached_property
    def before(self) -> Cell | None:
        """The cell whose adapter this one goes on from."""
        return Cell(self.study, self.about.after, self.seed, self.out, self.file) if self.about.after else None

    @cached_property
    def config(self) -> RunConfig:
        """What `studio train` is given. Raises UsageError for settings that cannot be."""
        about, shared = self.about, self.study.base
        held: dict[str, Any] = {}
        if about.config:  # a config of the studio's own: the study's base says nothing about it
            held, shared = dict(layer(self.file.parent / about.config)["settings"]), {}
        settings = merge(merge(shared, held), about.settings)
        for trial in self.study.tried(self.recipe):
            if best := winner(trial, self.study, self.out, self.file):
                settings |= {name: self.study.run[best].settings[name] for name in trial.settings}
        if self.before is not None:
            settings["start"] = str(self.before.run.folder)
        flags = {
            "model": self.study.model, "run": self.name, "runs": self.out, "seed": self.seed, "settings": settings,
        }  # fmt: skip
        return make(about.trainer, flags=flags)


def cells(study: Study, names: Sequence[str], seeds: Sequence[int], out: Path, file: Path) -> list[Cell]:
    """The cells of recipes; all recipes with one seed before any with the next, so that a page can be written early.

    A recipe's own further seeds come last, where the study's are asked for.
    """
    more = {name: study.run[name].more_seeds if tuple(seeds) == study.seeds else () for name in names}
    every = dict.fromkeys([*seeds, *sorted({seed for each in more.values() for seed in each})])
    return [Cell(study, name, seed, out, file) for seed in every for name in names if seed in (*seeds, *more[name])]


def trials(study: Study, names: Sequence[str], out: Path, file: Path) -> list[Cell]:
    """The cells that recipes have settings from, each once."""
    asked = [one for one in study.trial if set(one.of) & set(names)]
    return list({cell.name: cell for one in asked for cell in tries(one, study, out, file)}.values())


def tries(trial: Trial, study: Study, out: Path, file: Path) -> list[Cell]:
    """The cells of a trial, seed by seed."""
    return [Cell(study, name, seed, out, file) for seed in trial.seeds for name in trial.runs]


def gains(trial: Trial, study: Study, out: Path, file: Path) -> dict[str, float]:
    """By how much the number got better in each run of a trial that is measured with every seed, picture by picture."""
    found: dict[str, list[list[tuple[int, float]]]] = {}
    for one in tries(trial, study, out, file):
        steps, sheet = one.about.draw.steps, Sheet.read(one.run)
        last = max(sheet.steps(steps), default=0)
        if one.done and last and (changes := sheet.changes(trial.number, last, steps)):
            found.setdefault(one.recipe, []).append(changes)
    way = 1.0 if trial.better == "higher" else -1.0
    whole = {name: each for name, each in found.items() if len(each) == len(trial.seeds)}
    return {name: gain([row for changes in each for row in changes], way).value for name, each in whole.items()}


def winner(trial: Trial, study: Study, out: Path, file: Path) -> str:
    """The run of a trial that gained most; "" until all are measured."""
    found = gains(trial, study, out, file)
    return max(found, key=lambda name: found[name]) if len(found) == len(trial.runs) else ""


def minutes(cell: Cell) -> float:
    """About how many minutes of one core a cell takes that has not begun, measuring included."""
    before = minutes(cell.before) if cell.before is not None and not cell.before.done else 0.0
    settings = cell.config.settings
    looks = 1 + (len(settings.keep_steps) or settings.steps // (settings.save_every or settings.steps))
    return before + (START + settings.steps * step(settings) + guarding(settings) + looks * look(cell)) / 60


def step(settings: Any) -> float:
    """Seconds of an optimizer step: calls of the network, and what it takes besides."""
    if not hasattr(settings, "sampler_steps"):
        return float(TAUGHT + settings.batch * settings.accumulate * (FORWARD + BACKWARD))
    sides, calls = 2 if settings.guidance_scale > 1 else 1, settings.sampler_steps
    if not hasattr(settings, "rollout"):
        kept = {"full": calls, "last_k": getattr(settings.truncation, "k", 1)}
        learnt = kept.get(settings.truncation.mode, (calls + 1) / 2)
        pictures = settings.batch * settings.accumulate
        return float(STEP + sides * pictures * (calls * FORWARD + learnt * (FORWARD + BACKWARD)))
    learnt = settings.epochs * settings.learnt(settings.actions)
    pictures = settings.rollout / settings.updates / settings.epochs
    return float(STEP + sides * pictures * (calls * FORWARD + learnt * (FORWARD + BACKWARD)))


def guarding(settings: Any) -> float:
    """Seconds that a run's guard takes, where nothing ends the run before its last step."""
    guard = getattr(settings, "guard", None)
    if guard is None or not guard.every:
        return 0.0
    sides = 2 if settings.guidance_scale > 1 else 1
    return float((1 + settings.steps // guard.every) * guard.pictures * settings.sampler_steps * FORWARD * sides)


def look(cell: Cell) -> float:
    """Seconds that one checkpoint takes to measure."""
    if not cell.about.measured:
        return 0.0
    draw = cell.about.draw
    pictures = cell.study.measure.pictures * 8
    return pictures * draw.steps * FORWARD * (2 if draw.guidance_scale > 1 else 1)


def find(study: Study, name: str, out: Path, file: Path) -> Cell:
    """The cell of a name. Raises UsageError."""
    recipe, _, seed = name.rpartition("-")
    if recipe not in study.run or not seed.isdigit():
        raise UsageError(f"there is no cell '{name}': it is RUN-SEED, and the runs are {', '.join(study.run)}")
    return Cell(study, recipe, int(seed), out, file)


def chain(cell: Cell) -> Iterator[Cell]:
    """A cell with what must be trained before it, first things first."""
    if cell.before is not None:
        yield from chain(cell.before)
    yield cell
