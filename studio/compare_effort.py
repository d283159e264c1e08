"""What experiments take besides training: starting a process per cell, and drawing what is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.compare_cells import Cell
from studio.compare_experiments import Experiment
from studio.evaluation import sets
from studio.rate import clock

if TYPE_CHECKING:
    from studio.compare import Study

START = 15.0  # seconds of one core per cell: imports, loading, planning, export, check; measured on the embedded model
STEPS = 20  # of the sampler, where the config says nothing
PASSES = 3  # forward passes that a training step on one picture costs


def rest(study: Study) -> dict[str, float]:
    """Seconds of one core, and pictures, that are still to come."""
    todo = [cell for cell in study.cells if cell.run.state(cell.steps) != "done"]
    drawn = [(cell, prompts(study, cell)) for cell in todo]
    further = [one for experiment in study.comparison.experiments for one in draws(study, experiment)]
    count = sum(number for _, number in (*drawn, *further))
    seconds = sum(number * each(study, cell) for cell, number in (*drawn, *further))
    return {"starting": START * len(todo), "pictures": count, "drawing": seconds}


def prompts(study: Study, cell: Cell, silent: bool = True) -> int:
    """Pictures of one cell's evaluation. silent: with those that do not call the subject."""
    judging = study.comparison.evaluation
    kind = sets.kind_of(cell.config.settings.data.class_word)
    shown = sets.choose(sets.shipped(study.comparison.model, kind), judging.sets)
    count = sum(len(one.prompts) for one in shown if silent or one.trigger)
    return count * (judging.seeds or 4) * (not judging.skip)


def draws(study: Study, experiment: Experiment) -> list[tuple[Cell, int]]:
    """Per adapter and draw, its pictures."""
    uses = [(cell, draw) for cell in study.cells for draw in experiment.draw
            if (experiment.name, draw.of) in cell.uses]  # fmt: skip
    return [(cell, prompts(study, cell, silent=False)) for cell, _ in uses]


def each(study: Study, cell: Cell) -> float:
    """Seconds of one picture: two passes a sampler step, where a training step is three per picture."""
    settings, price = cell.config.settings, study.prices.get(cell.setting)
    step = (price.seconds if price else None) or 0.0
    steps = study.comparison.evaluation.steps or STEPS
    return step / (PASSES * settings.batch) * 2 * steps


def said(study: Study, training: float, jobs: int) -> str:
    """One line about all of it. training: seconds of one core."""
    found = rest(study)
    whole = (training + found["starting"] + found["drawing"]) / jobs
    return (
        f"with starting ({clock(found['starting'])}) and drawing {found['pictures']:g} pictures "
        f"({clock(found['drawing'])}) about {clock(whole)} with {jobs} at once, one core each"
    )
