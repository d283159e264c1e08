"""What the benchmark of rewards trains and compares: the tables of `assets/configs/reward.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from studio import registry
from studio.mistakes import explain
from studio.pipelines.errors import UsageError
from studio.pipelines.settings import Part
from studio.toml import read as read_toml

Better = Literal["higher", "lower"]
NAME = r"^[a-z0-9][a-z0-9-]{0,39}$"


class Drawing(Part):
    """How the pictures are drawn that measure a run."""

    sampler: Annotated[str, Field(description="Sampler")] = "ddim"
    steps: Annotated[int, Field(ge=1, description="Its steps")] = 12
    guidance_scale: Annotated[float, Field(ge=1, description="Classifier-free guidance scale")] = 4.0
    eta: Annotated[float, Field(ge=0, le=1, description="Noise of DDIM's steps")] = 0.0


class Recipe(Part):
    """A run of every seed: `[run.NAME]`."""

    about: Annotated[str, Field(description="What tables call it")]
    trainer: Annotated[str, Field(description="Who trains it")]
    settings: Annotated[dict[str, Any], Field(description="The trainer's settings, nested as in a run")] = {}
    after: Annotated[str, Field(description="The run, of the same seed, whose adapter it goes on from")] = ""
    config: Annotated[str, Field(description="A file beside this one that the settings are laid over")] = ""
    draw: Annotated[Drawing, Field(description="How it is measured")] = Drawing()
    also: Annotated[tuple[int, ...], Field(description="Other numbers of sampler steps, at its start and end")] = ()
    measured: Annotated[bool, Field(description="Whether its checkpoints are measured")] = True
    more_seeds: Annotated[tuple[int, ...], Field(description="Its seeds besides the study's")] = ()


class Measuring(Part):
    """What every checkpoint is measured with: pictures of the run's held-out prompts, of fixed seeds."""

    terms: Annotated[tuple[str, ...], Field(min_length=1, description="Scorers' numbers, as terms of a reward")]
    pictures: Annotated[int, Field(ge=2, description="Of each held-out prompt")] = 4
    seed: Annotated[int, Field(ge=0, description="The first picture's")] = 9000
    fresh: Annotated[int, Field(ge=2, description="Of each prompt where a guard's word is measured again")] = 16
    fresh_seed: Annotated[int, Field(ge=0, description="The first of those pictures'")] = 50000
    batch: Annotated[int, Field(ge=1, description="Pictures drawn at once")] = 16


class Race(Part):
    """Two runs to one level of a held-out number: the one that `against` ends with."""

    experiment: Annotated[str, Field(description="The section that it is shown in")]
    name: Annotated[str, Field(description="What tables call it")]
    run: Annotated[str, Field(description="The one that should be there first")]
    against: Annotated[str, Field(description="The one that sets the level")]
    number: Annotated[str, Field(description="What is measured of both")]
    better: Annotated[Better, Field(description="Which way is good")] = "higher"
    unit: Annotated[Literal["queries", "seconds"], Field(description="What is counted to the level")] = "queries"
    bar: Annotated[float, Field(gt=0, description="How many times less it should be")] = 10.0
    beside: Annotated[tuple[str, ...], Field(description="What else is shown of both at that level")] = ()


class Sweep(Part):
    """Runs that differ in one thing, by what it costs in diversity."""

    experiment: str
    name: str
    runs: Annotated[tuple[str, ...], Field(min_length=2, description="In the order of the table")]
    number: Annotated[str, Field(description="The reward, as it is measured")]
    better: Better = "higher"
    collapse: Annotated[float, Field(gt=0, lt=1, description="Share of the start's diversity that counts as gone")] = (
        0.8
    )


class Hack(Part):
    """A run that is made to cheat its judge, with a guard and without."""

    experiment: str
    name: str
    run: Annotated[str, Field(description="With the guard")]
    free: Annotated[str, Field(description="Without, the same otherwise; empty: there is none")] = ""
    reward: Annotated[str, Field(description="The number that it cheats")]
    held_out: Annotated[str, Field(description="The number that the guard watches")]
    bar: Annotated[float, Field(gt=0, description="How far below the best seen it may end, as a share")] = 0.02


class Trial(Part):
    """Values of settings, each tried with seeds that do not count; the best ones are those of other runs."""

    settings: Annotated[tuple[str, ...], Field(min_length=1, description="Which, of the trainer's settings")] = ("lr",)
    runs: Annotated[tuple[str, ...], Field(min_length=2, description="Runs that have values of them each")]
    seeds: Annotated[tuple[int, ...], Field(min_length=1, description="Of the trials; no seeds of the study")]
    number: Annotated[str, Field(description="What is to gain most at their ends")]
    better: Annotated[Better, Field(description="Which way is good")] = "higher"
    of: Annotated[tuple[str, ...], Field(min_length=1, description="The runs that have the values then")]


class Before(Part):
    """A run beside what it went on from."""

    experiment: str
    name: str
    run: str
    numbers: Annotated[tuple[str, ...], Field(min_length=1, description="What is shown before and after")]
    keep: Annotated[tuple[str, ...], Field(description="Those that may not fall")] = ()
    bar: Annotated[float, Field(ge=0, description="How far they may, as a share")] = 0.05


class Study(Part):
    """The whole file."""

    model: str = "embedded"
    seeds: Annotated[tuple[int, ...], Field(min_length=1, description="Of the runs")] = (0, 1, 2)
    experiments: Annotated[tuple[str, ...], Field(description="In the order of the page")] = ()
    base: Annotated[dict[str, Any], Field(description="Settings that the runs of rewards share")] = {}
    measure: Measuring
    run: Annotated[dict[str, Recipe], Field(min_length=1, description="By name")]
    race: tuple[Race, ...] = ()
    sweep: tuple[Sweep, ...] = ()
    hack: tuple[Hack, ...] = ()
    before: tuple[Before, ...] = ()
    trial: tuple[Trial, ...] = ()

    @model_validator(mode="after")
    def known(self) -> Study:
        """Raises ValueError for a run that nobody describes, and for an experiment without one."""
        found = dict.fromkeys(where for where, _ in self.uses())
        if strange := next((name for name in self.experiments if name not in found), ""):
            raise ValueError(f"experiments: there is none of the name '{strange}'{registry.nearest(strange, found)}")
        named = {name: where for where, names in self.uses() for name in names}
        named |= {one.after: f"run {name}" for name, one in self.run.items() if one.after}
        named |= {name: "trial" for one in self.trial for name in (*one.runs, *one.of)}
        for name, where in named.items():
            if name not in self.run:
                raise ValueError(f"{where}: there is no run '{name}'{registry.nearest(name, self.run)}")
        for one in self.trial:
            counted = {*self.seeds, *(seed for each in self.run.values() for seed in each.more_seeds)}
            if both := counted & set(one.seeds):
                raise ValueError(f"trial.seeds: {min(both)} is one of the seeds that count; take another")
            for setting in one.settings:
                if lacking := next((name for name in one.runs if setting not in self.run[name].settings), ""):
                    raise ValueError(f"trial: the run '{lacking}' has no {setting} of its own")
        return self

    def uses(self) -> list[tuple[str, tuple[str, ...]]]:
        """Experiments with the runs that each needs, in order."""
        return [
            *((one.experiment, (one.run, one.against)) for one in self.race),
            *((one.experiment, one.runs) for one in self.sweep),
            *((one.experiment, tuple(filter(None, (one.run, one.free)))) for one in self.hack),
            *((one.experiment, (one.run,)) for one in self.before),
        ]

    @property
    def order(self) -> list[str]:
        """The experiments, those that are named first."""
        found = dict.fromkeys(where for where, _ in self.uses())
        return list(dict.fromkeys([*(name for name in self.experiments if name in found), *found]))

    def tried(self, run: str) -> list[Trial]:
        """The trials that settings of a run come from."""
        return [one for one in self.trial if run in one.of]

    def runs(self, experiment: str = "") -> list[str]:
        """The runs of an experiment, or of all, each once, in order."""
        names = [name for where, each in self.uses() if experiment in ("", where) for name in each]
        return list(dict.fromkeys(names))


def read(path: Path) -> Study:
    """The file. Raises UsageError, in one line, for anything in it that is wrong."""
    values: Mapping[str, Any] = read_toml(path)
    try:
        return Study.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(explain(error, Part, Study, "reward", str(path))) from None
