"""Pictures of two sides with the same prompt and seed: what a blind test may show beside each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.pipelines.confine import is_inside
from studio.pipelines.errors import UsageError
from studio.store import Run
from studio.ui.library_header import header
from studio.ui.library_pictures import about

BASE = "base"
Key = tuple[str, str, str]  # where it is from, the prompt with {subject}, the seed
Shelf = dict[Key, Path]


@dataclass(frozen=True)
class Side:
    """A run's adapter, or with `base` the model that it was trained on."""

    run: str
    base: bool = False

    @property
    def label(self) -> str:
        """Its name, for when the sides are shown."""
        return f"base model of {self.run}" if self.base else self.run


@dataclass(frozen=True)
class Pair:
    """A prompt and its two pictures, the first side's first."""

    prompt: str
    seed: str
    pictures: tuple[Path, Path]


def pairs(first: Run, one: Side, second: Run, other: Side) -> list[Pair]:
    """The pictures that both sides have. Raises UsageError where there are none, saying what makes some."""
    if one == other:
        raise UsageError(f"both sides are {one.label}: choose two that differ")
    mine, theirs = shelf(first, one.base), shelf(second, other.base)
    found = [Pair(key[1], key[2], (mine[key], theirs[key])) for key in sorted(mine.keys() & theirs.keys())]
    if not found:
        raise UsageError(
            f"{one.label} ({len(mine)} pictures) and {other.label} ({len(theirs)}) share no prompt and seed: evaluate "
            "both, or train them with the same preview prompts and seed"
        )
    return found


def shelf(run: Run, base: bool) -> Shelf:
    """The pictures of a side by prompt and seed: previews of the last step, and those of an evaluation."""
    return dict([*previews(run, base), *evaluated(run, base)])


def previews(run: Run, base: bool) -> Iterator[tuple[Key, Path]]:
    """samples/000300-01.png, or base-01.png."""
    files = sorted(p for p in (run.folder / "samples").glob("*-*.png") if is_inside(run.folder, p))
    steps = [path.name.split("-")[0] for path in files if path.name[0].isdigit()]
    wanted = BASE if base else max(steps, default="")
    called = subject(run)
    for path in files:
        if path.name.split("-")[0] == wanted:
            said = about(path)
            yield ("preview", neutral(said.get("prompt", ""), called), said.get("seed", "")), path


def evaluated(run: Run, base: bool) -> Iterator[tuple[Key, Path]]:
    """Pictures of evaluation.json, of the adapter at strength 1; not those without the trigger."""
    folder = run.folder / "evaluation"
    try:
        found = json.loads((folder / "evaluation.json").read_text("utf-8"))
        labels = [row["label"] for row in found["sources"] if bool(row["file"]) != base and row["strength"] == 1]
        rows = [row for row in found["pictures"] if row["source"] in labels[:1] and row["set"] != "class"]
        for row in rows:
            path = folder / row["file"]
            if path.is_file() and is_inside(folder, path):
                yield ("evaluation", str(row["template"]), str(row["seed"])), path
    except (OSError, ValueError, KeyError, TypeError):
        return


def subject(run: Run) -> list[str]:
    """What the run calls its subject, the longest first: `sks dog`, `sks`."""
    said = header(run)
    trigger, word = said.get("trigger", ""), said.get("class_word", "")
    return [text for text in (f"{trigger} {word}".strip(), trigger) if text]


def neutral(prompt: str, called: list[str]) -> str:
    """A prompt with `{subject}` for the run's own words, so that runs with other triggers can be compared."""
    for text in called:
        if text in prompt:
            return prompt.replace(text, "{subject}")
    return prompt
