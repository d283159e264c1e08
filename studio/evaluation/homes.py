"""Where an evaluation is written: it replaces no evaluation that says more, none of other adapters, nothing of a
person's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from studio.evaluation.gallery import plain
from studio.evaluation.targets import Target

FOLDER, FILE, CARD = "evaluation", "evaluation.json", "README.md"
MARK = "in Personalization studio."  # what the first paragraph of every card of ours says
LONG = 60  # letters of a folder's name
Asked = Mapping[str, Any]  # of an evaluation's settings: sets, seeds, scorers, of


@dataclass(frozen=True)
class Home:
    """folder: of evaluation.json and the pictures; home: of report and card; own: runs whose own scores are written.

    note: why it is not the usual place.
    """

    folder: Path
    home: Path
    own: frozenset[Path] = frozenset()
    note: str = ""


def choose(found: Sequence[Target], out: Path | None, quick: bool, asked: Asked) -> Home:
    """The place of an evaluation of these sources. out: a person's wish, in which everything goes; asked: what it asks.

    One run's is in its folder, `evaluation`, with report and card in the run's; a look that leaves out what is there
    goes beside it, to `evaluation-quick` or `evaluation-part`. Others have `evaluation/NAMES`, numbered where files of
    that name are others.
    """
    if out is not None:
        return Home(out, out)
    runs = {one.run.folder: covers(asked, settings(one.run.folder / FOLDER)) for one in found if one.run is not None}
    own = frozenset(run for run, all_of_it in runs.items() if all_of_it)
    alone = next(iter(runs)) if len(runs) == 1 and all(one.run is not None for one in found) else None
    folder = alone / FOLDER if alone is not None else free(Path(FOLDER), found, asked)
    if covers(asked, settings(folder)):
        return Home(folder, alone or folder, own)
    beside = folder.with_name(f"{folder.name}-{'quick' if quick else 'part'}")
    return Home(
        beside, beside, own, f"{folder} holds an evaluation with more in it and is kept: this one is in {beside}"
    )


def covers(asked: Asked, old: Asked | None) -> bool:
    """Whether an evaluation asks as much as an older one: its sets with as many prompts, its seeds and its scorers."""
    if old is None:
        return True
    sets, seeds, scorers = (old.get(key) or () for key in ("sets", "seeds", "scorers"))
    enough = all(len(asked["sets"].get(name, ())) >= len(sets[name]) for name in sets)
    return enough and set(seeds) <= set(asked["seeds"]) and set(scorers) <= set(asked["scorers"])


def free(place: Path, found: Sequence[Target], asked: Asked) -> Path:
    """The folder of several runs, or of bare files, below `place`: the first that holds nothing of other sources."""
    names = dict.fromkeys(one.run.name if one.run is not None else one.file.stem for one in found)
    name = "+".join(plain(one) for one in names)
    name = name if len(name) <= LONG else f"{name[:LONG]}-{digest(name)[:8]}"
    folders = (place / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(one for one in folders if (settings(one) or asked).get("of", asked["of"]) == asked["of"])


def of(found: Sequence[Target]) -> str:
    """Which files are evaluated, in a few letters that say nothing of where they are."""
    return digest("\n".join(sorted({str(one.file.absolute()) for one in found})))[:12]


def digest(text: str) -> str:
    """sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def settings(folder: Path) -> dict[str, Any] | None:
    """What an evaluation's folder says it asked; None where there is none, or it cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text("utf-8"))["settings"]
        return found if isinstance(found, dict) and isinstance(found.get("sets", {}), dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def card(home: Path) -> Path:
    """The model card's file: README.md, or `model-card.md` beside one that somebody else wrote."""

    def names() -> Iterator[str]:
        yield CARD
        yield "model-card.md"
        yield from (f"model-card-{number}.md" for number in count(2))

    return next(home / name for name in names() if ours(home / name))


def ours(file: Path) -> bool:
    """Whether a card may be written there: nothing is, or a card of ours."""
    try:
        return MARK in file.read_text("utf-8")
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
