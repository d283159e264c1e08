"""Experiments of a comparison: named methods on embedded subjects; cells that several share are trained once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from studio import registry
from studio.compare_parse import Grid, flatten, grid, refuse_taken
from studio.mistakes import brief, explain
from studio.pipelines.errors import UsageError
from studio.pipelines.guidance_settings import Guiding
from studio.pipelines.settings import Part

KEY, INSTEAD = "experiment", ("trainers", "grid")  # what experiments say themselves
NAME = r"^[a-z0-9][a-z0-9-]{0,39}$"
Made = TypeVar("Made", bound=Part)


class Method(Part):
    """A trainer with settings, under the name that tables and verdicts give it."""

    name: Annotated[str, Field(min_length=1, description="What tables call it")]
    trainer: Annotated[str, Field(description="Who trains it")]
    settings: Annotated[dict[str, Any], Field(description="The trainer's settings, nested as in a run")] = {}
    grid: Annotated[Grid, Field(description="Settings that vary, by dotted name, with their values")] = {}
    steps: Annotated[int, Field(ge=0, description="Optimizer steps of this method alone; 0: the experiment's")] = 0


class Draw(Part):
    """Further pictures by adapters that a method has learned: nothing is trained."""

    name: Annotated[str, Field(min_length=1, description="What tables call it")]
    of: Annotated[str, Field(description="The method whose adapters draw")]
    guidance: Annotated[Guiding, Field(description="Its kind and settings; empty: usual")] = Guiding()
    beside: Annotated[str, Field(description="'EXPERIMENT: METHOD' whose adapters are added; empty: none")] = ""
    alone: Annotated[bool, Field(description="Draw with those of `beside` alone, as a measure of what is lost")] = False


class Experiment(Part):
    """Methods x grid x subjects x seeds, the same data for all."""

    name: Annotated[str, Field(pattern=NAME, description="Short name, with hyphens")]
    about: Annotated[str, Field(description="A sentence for the page")] = ""
    subjects: Annotated[tuple[str, ...], Field(description="Embedded subjects; empty: the comparison's")] = ()
    seeds: Annotated[tuple[int, ...], Field(description="Seeds of the runs; empty: the comparison's")] = ()
    pictures: Annotated[int, Field(ge=0, le=1, description="1: the first training picture alone; 0: all")] = 0
    steps: Annotated[int, Field(ge=0, description="Optimizer steps; 0: the budget's")] = 0
    settings: Annotated[dict[str, Any], Field(description="Settings that its methods share")] = {}
    grid: Annotated[Grid, Field(description="Settings that vary for each method")] = {}
    prompts: Annotated[str, Field(description="File of assets/prompts for its draws; empty: the usual sets")] = ""
    method: Annotated[tuple[Method, ...], Field(min_length=1, description="The methods")]
    draw: Annotated[tuple[Draw, ...], Field(description="Further pictures by their adapters")] = ()


def read(path: Path, values: Mapping[str, Any]) -> tuple[Experiment, ...]:
    """The [[experiment]] tables of a file. Raises UsageError in one line for whatever is wrong with one."""
    rows = listed(path, values, KEY)
    taken = [key for key in (*INSTEAD, *registry.names("trainers")) if rows and key in values]
    if taken:
        raise UsageError(f"{path}: {taken[0]} beside [[{KEY}]]: each experiment names its own methods and grid")
    found = tuple(one(path, row) for row in rows)
    again = twice([experiment.name for experiment in found])
    if again:
        raise UsageError(f"{path}: two experiments are called '{again}'")
    for experiment in found:
        check(path, experiment, found)
    return found


def one(path: Path, row: Mapping[str, Any]) -> Experiment:
    """One table with its methods and draws."""
    where = f"{KEY} {brief(row.get('name', 'without a name'))}"
    parts = {
        "method": tuple(method(path, inner, where) for inner in listed(path, row, "method", where)),
        "draw": tuple(made(path, inner, Draw, f"{where} draw") for inner in listed(path, row, "draw", where)),
    }
    own = {"grid": grid(path, row.get("grid", {}), f"{where} grid")}
    experiment = made(path, {**row, **parts, **own}, Experiment, where)
    refuse_taken(path, f"{where} settings", flatten(experiment.settings))
    return experiment


def method(path: Path, row: Mapping[str, Any], where: str) -> Method:
    """One method's table. Raises UsageError for a trainer that does not exist."""
    where = f"{where} method {brief(row.get('name', 'without a name'))}"
    found = made(path, {**row, "grid": grid(path, row.get("grid", {}), f"{where} grid")}, Method, where)
    registry.find("trainers", found.trainer)
    refuse_taken(path, f"{where} settings", flatten(found.settings))
    return found


def made(path: Path, row: Mapping[str, Any], kind: type[Made], where: str) -> Made:
    """A table as its part. Raises UsageError; for an unknown key first: a missing one may be meant by it."""
    for key in row:
        if key not in kind.model_fields:
            raise UsageError(f"{path}: [{where}] has no setting '{key}'{registry.nearest(key, kind.model_fields)}")
    try:
        return kind.model_validate(dict(row))
    except ValidationError as error:
        raise UsageError(explain(error, Part, kind, where, str(path))) from None


def listed(path: Path, values: Mapping[str, Any], key: str, where: str = "") -> list[Mapping[str, Any]]:
    """An array of tables."""
    rows = values.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise UsageError(f"{path}: {where or 'the top level'}: {key} should be tables, [[{KEY}...]]")
    return rows


def check(path: Path, experiment: Experiment, found: tuple[Experiment, ...]) -> None:
    """UsageError for two rows of one name, and for a draw by a method that is not there."""
    where = f"{path}: experiment '{experiment.name}'"
    labels = [*(one.name for one in experiment.method), *(one.name for one in experiment.draw)]
    if again := twice(labels):
        raise UsageError(f"{where}: two rows are called '{again}'")
    known = {f"{other.name}: {one.name}" for other in found for one in other.method}
    for draw in experiment.draw:
        named = [(draw.of, [one.name for one in experiment.method]), (draw.beside, ["", *known])]
        for name, among in named:
            if name not in among:
                hint = registry.nearest(name, among)
                raise UsageError(f"{where}: draw '{draw.name}': there is no method '{name}'{hint}")
        if draw.alone and not draw.beside:
            raise UsageError(f"{where}: draw '{draw.name}': alone needs beside")
        if idle := draw.guidance.idle():
            raise UsageError(f"{where}: draw '{draw.name}': {idle[0]} does nothing with {draw.guidance.kind} guidance")


def twice(names: list[str]) -> str:
    """A name that is there twice, or ''."""
    return next((name for number, name in enumerate(names) if name in names[:number]), "")


def rows(experiment: Experiment) -> Iterator[tuple[str, Method, dict[str, Any]]]:
    """(label, method, varied settings) of every row of an experiment's table, in order."""
    for one in experiment.method:
        values = {**experiment.grid, **one.grid}
        for chosen in itertools.product(*values.values()):
            varied = dict(zip(values, chosen, strict=True))
            parts = [f"{key.rpartition('.')[2]} {value}" for key, value in varied.items()]
            yield ", ".join([one.name, *parts]), one, varied
