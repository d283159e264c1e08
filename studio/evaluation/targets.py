"""What is evaluated: runs and adapter files, each at one or more strengths, and the base models beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studio.config import RunConfig, flat
from studio.evaluation.records import Source
from studio.pipelines.errors import UsageError
from studio.sample import find
from studio.sample_sources import checkpoint
from studio.store import Run


@dataclass(frozen=True)
class Target:
    """An adapter file at a strength. run: the run it is of, if it is of one; data: what it was trained on, if known."""

    source: Source
    file: Path
    run: Run | None = None
    data: Path | None = None

    @property
    def subject(self) -> tuple[str, str, str]:
        """What it shares with others that the same base model's numbers serve."""
        return self.source.model, self.source.class_word, str(self.data or "")


def targets(
    names: Sequence[str],
    strengths: Sequence[float],
    model: str,
    runs: Path,
    trigger: str,
    class_word: str,
    data: Path | None = None,
) -> list[Target]:
    """Every source at every strength, under labels of its own.

    trigger, class_word, data: instead of the files' and runs' own. Raises UsageError for what is no run and no file,
    ModelError for a file that does not say its model.
    """
    found: list[Target] = []
    for name in names:
        one = find(name, model, runs)
        if one.file is None:
            raise UsageError("base is measured beside every run and file: name one of them")
        words = {"trigger": trigger or one.words["trigger"], "class_word": class_word or one.words["class_word"]}
        if not any(words.values()):
            raise UsageError(f"{name} does not say what it learned: give --class-word, and --trigger if it has one")
        run = Run(one.file.parent) if (one.file.parent / "run.toml").is_file() else None
        kept = checkpoint(name, runs)
        place = data or trained_on(kept[0] if kept else run)
        for strength in strengths:
            label = one.label if strength == 1 else f"{one.label} @ {strength:g}"
            label = unused(label, [target.source.label for target in found])
            found.append(Target(Source(label, one.model, one.file.name, strength, 0, **words), one.file, run, place))
    return found


def unused(label: str, taken: Sequence[str]) -> str:
    """A label nobody has."""
    number, free = 1, label
    while free in (*taken, "base"):
        number += 1
        free = f"{label} ({number})"
    return free


def trained_on(run: Run | None) -> Path | None:
    """The data of a run; None where its config cannot be read here."""
    config = config_of(run)
    return config.settings.data.folder if config is not None else None


def config_of(run: Run | None) -> RunConfig | None:
    """A run's config; None without a run, or where its trainer is not installed here."""
    try:
        return run.config() if run is not None else None
    except UsageError:
        return None


def settings_of(found: Sequence[Target]) -> dict[str, object]:
    """The flat config of the one run that is evaluated; {} for files and for several runs."""
    runs = {target.run.folder: target.run for target in found if target.run is not None}
    config = config_of(next(iter(runs.values()))) if len(runs) == 1 else None
    return flat(config) if config is not None else {}


def bases(found: Sequence[Target]) -> list[Target]:
    """The base model of every subject, each once; the first is called `base`."""
    first = {target.subject: target for target in reversed(found)}
    made: list[Target] = []
    leads = {target.subject[:2]: number for number, target in reversed(list(enumerate(found)))}

    def order(target: Target) -> tuple[int, bool, int]:
        """Those with pictures before others of their class: what the base model is worth there is told for both."""
        return leads[target.subject[:2]], target.data is None, found.index(target)

    for target in sorted(first.values(), key=order):
        word = target.source.class_word or target.source.model
        label = unused(f"base ({word})", [one.source.label for one in made]) if made else "base"
        made.append(replace(target, source=replace(target.source, label=label, file="", strength=1.0), run=None))
    return made
