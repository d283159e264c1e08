"""What the page on rewards says of how settings were come by, and of what was not measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studio.bench_reward_cells import gains, tries, winner
from studio.bench_reward_config import Study

GPU = "reward_gpu.md"
NO_GPU = (
    "No GPU figure was made: memory and seconds of a model of Stable Diffusion 1.5's size were not measured on a GPU."
)


def tried(study: Study, out: Path, file: Path) -> Iterator[str]:
    """What was tried for which settings of which runs, and which values they have."""
    for trial in study.trial:
        place = (study, out, file)
        found, best = gains(trial, *place), winner(trial, *place)
        values = {name: value({key: study.run[name].settings[key] for key in trial.settings}) for name in trial.runs}
        steps = " or ".join(map(str, sorted({cell.config.settings.steps for cell in tries(trial, *place)})))
        seeds = f"seeds {', '.join(map(str, trial.seeds))}, which count nowhere else"
        yield f"Chosen for {' and '.join(trial.of)} by a trial: {steps} steps each with {seeds};"
        yield f"the largest gain in {trial.number} wins{'' if best else '; it is not chosen yet'}."
        yield ""
        for name, said in values.items():
            shown = f"**{said}**" if name == best else said
            yield f"- {shown}: {f'{found[name]:+.3g}' if name in found else 'not yet'}"
        yield ""
    names = (name for trial in study.trial for name in trial.settings if name in study.base)
    for name in dict.fromkeys(names):
        yield f"A run with no {name} of its own that no trial names has the shared {study.base[name]}."
        yield ""


def value(of: Any) -> str:
    """Settings and their values; of a table, what stands in it."""
    if isinstance(of, Mapping):
        return ", ".join(f"{key} {value(each)}" for key, each in of.items())
    return f"{of:g}" if isinstance(of, float) else str(of).lower()


def gpu(pages: Path) -> Iterator[str]:
    """The optional figure."""
    yield from ("## gpu", "")
    yield f"Measured apart: [{GPU}]({GPU})." if (pages / GPU).is_file() else NO_GPU
    yield ""
