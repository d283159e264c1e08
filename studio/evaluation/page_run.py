"""The run behind an evaluation: where its folder is, what its adapter's file holds, and what it recommends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.evaluation.records import Evaluation, Source
from studio.pipelines.errors import StudioError


@dataclass(frozen=True)
class Held:
    """Which checkpoint an adapter holds, 0 where that is not known, and at which strength it acts when it acts fully.

    picked: it is not simply the last checkpoint.
    """

    step: int = 0
    strength: float = 1.0
    picked: bool = False


@dataclass(frozen=True)
class Origin:
    """folder: of the run, None without one; choice: the recommended step, strength and reason, {} without; held: what
    each source's file holds, by label.
    """

    folder: Path | None = None
    choice: Mapping[str, Any] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)

    def of(self, source: Source) -> Held:
        """What a source's pictures were drawn with: checkpoint, and strength with what is in the file."""
        found = self.held.get(source.label, Held(source.step))
        return Held(found.step, round(found.strength * source.strength, 6), found.picked)


NOWHERE = Origin()


def origin(evaluation: Evaluation, home: Path) -> Origin:
    """The run behind an evaluation. home: where its page lies."""
    from studio import choice_file

    place = folder(evaluation, home)
    choice = choice_file.Ledger.read(place / choice_file.NAME).picked if place is not None else {}
    held = {source.label: holds(evaluation, source, place) for source in evaluation.sources if source.file}
    return Origin(place, choice, held)


def folder(evaluation: Evaluation, home: Path) -> Path | None:
    """The run's folder: where the page lies; above it or where its config says, if the run there has that config."""
    from studio import choice_file

    if any((home / name).is_file() for name in ("run.toml", choice_file.NAME)):
        return home
    config = evaluation.config
    places = [home.parent, *([Path(str(config.get("runs", ""))) / str(config["run"])] if config.get("run") else [])]
    there = (place for place in places if (place / "run.toml").is_file() and flat_config(place) == config)
    return next(there, None)


def flat_config(place: Path) -> dict[str, object]:
    """A run's config, flat; {} where it cannot be read here."""
    from studio.config import flat
    from studio.store import Run

    try:
        return flat(Run(place).config())
    except StudioError:
        return {}


def holds(evaluation: Evaluation, source: Source, place: Path | None) -> Held:
    """What a source's file holds: by `settings['adapters']`, by its header in the run's folder, else the last step."""
    told = evaluation.settings.get("adapters", {})
    header = told.get(source.label) if isinstance(told, Mapping) else None
    if header is None and place is not None:
        header = header_of(place / Path(source.file).name)
    usual = Held(source.step or last(evaluation))
    try:
        return Held(int(header["step"]), float(header.get("strength", 1)), picked=True) if header else usual
    except (KeyError, ValueError, TypeError):  # a stranger's header may say anything
        return usual


def header_of(file: Path) -> Mapping[str, Any]:
    """A file's header; {} where it has none."""
    from studio.pipelines.adapters import files

    try:
        return files.header(file) if file.is_file() else {}
    except StudioError:
        return {}


def last(evaluation: Evaluation) -> int:
    """The last step of the run that is evaluated; 0 where that is not known."""
    found = evaluation.config.get("settings.steps", 0)
    return found if isinstance(found, int) else 0
