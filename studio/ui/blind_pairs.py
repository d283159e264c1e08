"""Pictures of two sides with the same prompt and seed: what a blind test may show beside each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.pipelines.confine import is_inside
from studio.pipelines.errors import UsageError
from studio.store import Run
from studio.ui.library_header import header
from studio.ui.library_pictures import about

BASE, SUBJECT = "base", "{subject}"
Key = tuple[str, str, str]  # where it is from, the prompt with {subject}, the seed
Called = tuple[str, str]  # the trigger and the class word of a run


@dataclass(frozen=True)
class Shown:
    """A picture, and the words that it was drawn from."""

    path: Path
    words: str


Shelf = dict[Key, Shown]


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
    called = calls(first), calls(second)
    found = [
        Pair(spoken(key[1], (mine[key].words, theirs[key].words), called), key[2], (mine[key].path, theirs[key].path))
        for key in sorted(mine.keys() & theirs.keys())
    ]
    if not found:
        raise UsageError(
            f"{one.label} ({len(mine)} pictures) and {other.label} ({len(theirs)}) share no prompt and seed: evaluate "
            "both, or train them with the same preview prompts and seed"
        )
    return found


def shelf(run: Run, base: bool) -> Shelf:
    """The pictures of a side by prompt and seed: previews of the last step, and those of an evaluation."""
    return dict([*previews(run, base), *evaluated(run, base)])


def previews(run: Run, base: bool) -> Iterator[tuple[Key, Shown]]:
    """samples/000300-01.png, or base-01.png."""
    files = sorted(p for p in (run.folder / "samples").glob("*-*.png") if is_inside(run.folder, p))
    steps = [path.name.split("-")[0] for path in files if path.name[0].isdigit()]
    wanted = BASE if base else max(steps, default="")
    called = calls(run)
    for path in files:
        if path.name.split("-")[0] == wanted:
            said = about(path)
            words = said.get("prompt", "")
            yield ("preview", neutral(words, called), said.get("seed", "")), Shown(path, words)


def evaluated(run: Run, base: bool) -> Iterator[tuple[Key, Shown]]:
    """Pictures of evaluation.json, of the adapter at strength 1; not those without the trigger."""
    folder = run.folder / "evaluation"
    try:
        found = json.loads((folder / "evaluation.json").read_text("utf-8"))
        labels = [row["label"] for row in found["sources"] if bool(row["file"]) != base and row["strength"] == 1]
        rows = [row for row in found["pictures"] if row["source"] in labels[:1] and row["set"] != "class"]
        for row in rows:
            path = folder / row["file"]
            if path.is_file() and is_inside(folder, path):
                words = str(row.get("prompt", row["template"]))
                yield ("evaluation", str(row["template"]), str(row["seed"])), Shown(path, words)
    except (OSError, ValueError, KeyError, TypeError):
        return


def calls(run: Run) -> Called:
    """What the run calls its subject: as its adapter's file says, or while there is none, as its config does."""
    said: Mapping[str, Any] = header(run)
    if not said:
        try:
            table = run.table()
            said = table[table["trainer"]]["data"]
        except (UsageError, OSError, KeyError, TypeError):
            return "", ""
    return str(said.get("trigger", "")), str(said.get("class_word", ""))


def neutral(prompt: str, called: Called) -> str:
    """A prompt with `{subject}` for the run's own words, so that runs with other triggers can be compared."""
    trigger = called[0]
    for text in (" ".join(filter(None, called)), trigger):
        whole = rf"(?<!\w){re.escape(text)}(?!\w)"
        if trigger and re.search(whole, prompt):
            return re.sub(whole, SUBJECT, prompt)
    return prompt


def spoken(template: str, said: Iterable[str], called: Iterable[Called]) -> str:
    """A prompt for people: the words that all pictures were drawn from, else what all runs teach in their place.

    The runs' own words would tell in a blind test whose picture it is.
    """
    if len(words := set(said)) == 1 and SUBJECT not in (one := words.pop()):
        return one
    nouns = {noun for _, noun in called}
    return filled(template, nouns.pop() if len(nouns) == 1 else "")


def filled(template: str, words: str) -> str:
    """A prompt with the words for its subject; `your subject` where there are none."""
    article = r"(?:\b(?:an?|the) )?"
    return template.replace(SUBJECT, words) if words else re.sub(f"{article}{SUBJECT}", "your subject", template)
