"""What the page on rewards says of how settings were come by, and of what was not measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from studio.bench_reward_cells import Cell, gains, winner
from studio.bench_reward_config import Study

GPU = "reward_gpu.md"
NO_GPU = (
    "No GPU figure was made: memory and seconds of a model of Stable Diffusion 1.5's size were not measured on a GPU."
)


def tried(study: Study, out: Path, file: Path) -> Iterator[str]:
    """What was tried for which setting of which runs, and which value they have."""
    for trial in study.trial:
        cells = {name: Cell(study, name, trial.seed, out, file) for name in trial.runs}
        values = {name: study.run[name].settings[trial.setting] for name in trial.runs}
        found = gains(trial, next(iter(cells.values())))
        best = winner(trial, next(iter(cells.values())))
        told = ", ".join(f"{values[name]:g}: {found[name]:+.3g}" if name in found else f"{values[name]:g}: not yet"
                         for name in trial.runs)  # fmt: skip
        steps = " or ".join(str(n) for n in sorted({cell.config.settings.steps for cell in cells.values()}))
        had = f"**{values[best]:g}** is theirs." if best else "it is not chosen yet."
        names = " and ".join(trial.of)
        yield f"The {trial.setting} of {names} was chosen among {len(values)} values by a rule set before the runs:"
        yield f"{steps} steps each with seed {trial.seed}, which counts nowhere else; the larger gain in {trial.number}"
        yield f"wins ({told}); {had}"
        yield ""
    for name in dict.fromkeys(trial.setting for trial in study.trial if trial.setting in study.base):
        yield f"A run with no {name} of its own that no trial names has the shared {study.base[name]}."
        yield ""


def gpu(pages: Path) -> Iterator[str]:
    """The optional figure."""
    yield from ("## gpu", "")
    yield f"Measured apart: [{GPU}]({GPU})." if (pages / GPU).is_file() else NO_GPU
    yield ""
