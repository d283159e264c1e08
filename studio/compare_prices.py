"""What a step of every setting costs: counted in a rehearsal, timed in a short run; both kept for the next start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from studio import compare_cost
from studio.basis import digest, numbers
from studio.compare_cells import Cell
from studio.compare_cost import Price
from studio.config import to_toml
from studio.pipelines.errors import StudioError
from studio.plan_time import measured

FILE = "prices.json"
TIMED = 16  # steps of a run that is only there to be timed
BRIEF = {"every": 0, "n": 1, "steps": 1, "prompts": ("a",)}


def settings(cells: Sequence[Cell]) -> list[Cell]:
    """The first cell of every setting."""
    return list({cell.setting: cell for cell in reversed(cells)}.values())[::-1]


def counted(cells: Sequence[Cell], folder: Path | None) -> dict[str, Price]:
    """By setting, the pictures and the network calls of a step; rehearsed once, then read from `folder` if given."""
    known = read(folder / FILE) if folder else {}
    found: dict[str, Price] = {}
    for cell in settings(cells):
        name = identity(cell)
        if name not in known:
            try:
                known[name] = compare_cost.calls(cell.config)
            except StudioError:  # the cell will say it itself
                known[name] = None
            if folder:
                (folder / FILE).write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        found[cell.setting] = Price(compare_cost.samples(cell.config), known[name])
    return found


def plain(cells: Sequence[Cell]) -> dict[str, Price]:
    """By setting, the pictures of a step alone."""
    return {cell.setting: Price(compare_cost.samples(cell.config)) for cell in settings(cells)}


def identity(cell: Cell) -> str:
    """What decides the price of a step: everything that decides a run's numbers, apart from seed and steps."""
    values = {key: value for key, value in numbers(cell.config).items() if key not in ("seed", "settings.steps")}
    return digest(values)[:16]


def read(file: Path) -> dict[str, float | None]:
    """What was counted before; {} where nothing was, or what lies there is something else."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


def short(cell: Cell) -> Cell:
    """A short run of a cell's setting, in a folder of its own."""
    name, runs = identity(cell), cell.config.runs / "timing"
    previews = cell.config.settings.previews.model_copy(update=BRIEF)
    update = {"steps": TIMED, "save_every": 0, "previews": previews}
    config = cell.config.model_copy(
        update={"run": name, "runs": runs, "settings": cell.config.settings.model_copy(update=update)}
    )
    return replace(cell, name=name, config=config)


def timed(prices: Mapping[str, Price], cells: Sequence[Cell]) -> dict[str, Price]:
    """The prices with the seconds of a step, where the short run has been."""
    found = dict(prices)
    for cell in settings(cells):
        if seconds := measured(short(cell).run):
            found[cell.setting] = replace(found[cell.setting], seconds=seconds)
    return found


def written(cell: Cell) -> Cell:
    """The cell, its config written where `studio train` will read it."""
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    cell.file.write_text(to_toml(cell.config), "utf-8")
    return cell
