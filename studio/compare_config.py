"""The config of `studio compare`: which trainers, which settings, which seeds, at what cost, judged by what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from studio import compare_experiments, registry
from studio.compare_experiments import Experiment
from studio.compare_parse import Grid, flatten, grid, refuse_taken, table
from studio.mistakes import brief, explain
from studio.pipelines import drawing
from studio.pipelines.errors import UsageError
from studio.pipelines.settings import Part
from studio.store import NAME
from studio.toml import read as read_toml

Equal = Literal["steps", "samples", "calls", "seconds"]
OWN = "grid"  # the key of a trainer's table that is no setting of the trainer


class Budget(Part):
    """What every cell may spend on training. The pictures of its evaluation are not part of it.

    steps: optimizer steps. samples: pictures the network learns from, batch x accumulate a step; class pictures of
    prior preservation count too, so that it takes half the steps. calls: pictures through the network, forward and
    backward counted as one each, as a rehearsal of the trainer's own loss counts them. seconds: of the training loop,
    at the speed that a short run of every setting was timed at.
    """

    equal: Annotated[Equal, Field(description="What all cells spend equally: steps, samples, calls or seconds")] = (
        "steps"
    )
    amount: Annotated[float, Field(gt=0, description="How much of it")] = 300


class Judging(Part):
    """How finished cells are evaluated; what is left empty is as `studio evaluate` does it."""

    skip: Annotated[bool, Field(description="Train only")] = False
    sets: Annotated[tuple[str, ...], Field(description="Sets of prompts; empty: all")] = ()
    prompts: Annotated[Path | None, Field(description="TOML file with sets of your own")] = None
    seeds: Annotated[int, Field(ge=0, description="Pictures per prompt, each with a fixed seed; 0: the default")] = 0
    references: Annotated[Path | None, Field(description="Folder of pictures that were not trained on")] = None
    scorers: Annotated[tuple[str, ...], Field(description="Scorers; empty: those that suit the model")] = ()
    option: Annotated[tuple[str, ...], Field(description="Scorers' settings, as in dino.encoder=FOLDER")] = ()
    sampler: Annotated[str, Field(description="Sampler; empty: what each adapter is made for, else the model's")] = ""
    steps: Annotated[int, Field(ge=0, le=1000, description="Sampler steps; 0: the default")] = 0
    guidance_scale: Annotated[float, Field(ge=0, description="Classifier-free guidance; 0: the model's own")] = 0.0
    kind: Annotated[str, Field(description="live, object or style; empty: by the class word")] = ""
    quick: Annotated[bool, Field(description="A rough look: two prompts of each set, two seeds")] = False
    identity: Annotated[str, Field(description="Number on the plot's upright axis; empty: the first suitable")] = ""
    accuracy: Annotated[str, Field(description="Number on the plot's other axis; empty: the first suitable")] = ""


class Comparison(Part):
    """One comparison. trainers: names; own: each trainer's grid and fixed settings; base: what all cells share."""

    name: Annotated[str, Field(description="Name of the comparison's folder among the runs")]
    trainers: Annotated[tuple[str, ...], Field(min_length=1, description="The methods")] = ("dreambooth",)
    seeds: Annotated[tuple[int, ...], Field(min_length=1, description="Seeds of the runs")] = (0,)
    model: Annotated[str, Field(description="The model all cells start from")] = "embedded"
    base: Annotated[dict[str, Any], Field(description="Settings that all cells share")] = {}
    grid: Annotated[Grid, Field(description="Settings that vary, by dotted name, with their values")] = {}
    own: Annotated[dict[str, dict[str, Any]], Field(description="Per trainer: fixed settings")] = {}
    grids: Annotated[dict[str, Grid], Field(description="Per trainer: settings that vary")] = {}
    budget: Annotated[Budget, Field(description="What every cell may spend")] = Budget()
    evaluation: Annotated[Judging, Field(description="How finished cells are evaluated")] = Judging()
    subjects: Annotated[tuple[str, ...], Field(description="Embedded subjects, for experiments")] = ()
    experiments: Annotated[tuple[Experiment, ...], Field(description="Experiments with methods of their own")] = ()


# the keys of the file
WRITTEN = ("name", "trainers", "seeds", "base", "grid", "budget", "evaluation", "subjects", "experiment")


def read(path: Path) -> Comparison:
    """The comparison a TOML file describes.

    Raises UsageError in one line: unknown keys with the nearest known one, wrong values, unknown trainers.
    """
    values = read_toml(path)
    trainers = names(path, values.get("trainers", ["dreambooth"]))
    for key in values:
        if key not in WRITTEN and key not in trainers:
            absent = key in registry.names("trainers")
            hint = f"; add it to trainers, or delete the table [{key}]" if absent else nearest(key, trainers)
            raise UsageError(f"{path}: the top level has no setting '{key}'{hint}")
    own = {name: dict(table(path, values, name)) for name in trainers if name in values}
    grids = {name: grid(path, own[name].pop(OWN), f"{name}.{OWN}") for name in own if OWN in own[name]}
    base = dict(table(path, values, "base"))
    model = base.pop("model", "embedded")
    if not isinstance(model, str):
        raise UsageError(f"{path}: [base] model = {brief(model)}: should be a name or a folder")
    top: dict[str, Any] = {key: values[key] for key in ("name", "seeds", "subjects") if key in values}
    parts = {"budget": part(path, values, "budget", Budget), "evaluation": part(path, values, "evaluation", Judging)}
    found: dict[str, Any] = {
        **top,
        **parts,
        "trainers": trainers,
        "base": base,
        "model": model,
        "own": own,
        "grids": grids,
        "experiments": compare_experiments.read(path, values),
    }
    found["grid"] = grid(path, values.get("grid", {}), "grid")
    for where, settings in {"base": base, **own}.items():
        refuse_taken(path, where, flatten(settings))
    try:
        made = Comparison.model_validate(found)
    except ValidationError as error:
        raise UsageError(explain(error, Comparison, Comparison, "", str(path))) from None
    check_names(path, made.evaluation)
    return checked(path, made)


def checked(path: Path, made: Comparison) -> Comparison:
    """The comparison, or UsageError for a name that is no folder's and for seeds given twice or below 0."""
    if not NAME.fullmatch(made.name):
        raise UsageError(f"{path}: name = '{made.name}': a name has letters, digits, '.', '_' and '-', nothing else")
    if len(set(made.seeds)) < len(made.seeds) or min(made.seeds) < 0:
        raise UsageError(f"{path}: seeds = {list(made.seeds)}: should be different whole numbers from 0 on")
    if made.experiments and made.budget.equal != "steps":
        raise UsageError(f"{path}: [budget] equal = '{made.budget.equal}': experiments are of equal steps")
    if made.subjects and not made.experiments:
        raise UsageError(f"{path}: subjects are for [[experiment]] tables; name the data in [base.data]")
    return made


def check_names(path: Path, judging: Judging) -> None:
    """UsageError for scorers that do not exist, and for paths that climb out: the file may be a stranger's."""
    if judging.sampler:
        drawing.known(judging.sampler, f"{path}: [evaluation] sampler")
    known = [entry.name for entry in registry.describe("scorers")]
    for name in judging.scorers:
        if name not in (*known, "all", "personal", "captions"):
            hint = registry.nearest(name, known)
            raise UsageError(f"{path}: [evaluation] scorers: there is no scorer '{name}'{hint}")
    for key in ("prompts", "references"):
        place = getattr(judging, key)
        if place is not None and ".." in place.parts:
            raise UsageError(
                f"{path}: [evaluation] {key} = '{place}' climbs out with '..'; write the whole path into it"
            )
        if place is not None and not place.exists():
            raise UsageError(f"{path}: [evaluation] {key} = '{place}': there is nothing")


def names(path: Path, value: Any) -> tuple[str, ...]:
    """Trainers by name. Raises UsageError for an unknown one, for none, and for one given twice."""
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise UsageError(f"{path}: trainers = {brief(value)}: should be a list of names; see `studio list trainers`")
    for name in value:
        registry.find("trainers", name)
    if len(set(value)) < len(value):
        raise UsageError(f"{path}: trainers = {value}: one is there twice")
    return tuple(value)


def nearest(key: str, trainers: tuple[str, ...]) -> str:
    """What a key of the top level was meant to be."""
    hint = registry.nearest(key, [*WRITTEN, *trainers])
    return hint or f" (it has {', '.join(WRITTEN)} and a table per trainer)"


def part(path: Path, values: Mapping[str, Any], key: str, kind: type[BaseModel]) -> BaseModel:
    """A table of the file as its part."""
    try:
        return kind.model_validate(dict(table(path, values, key)))
    except ValidationError as error:
        raise UsageError(explain(error, Comparison, kind, key, str(path))) from None
