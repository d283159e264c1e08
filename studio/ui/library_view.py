"""What the Library tab draws: a page of runs with their thumbnails, and one run with a page of its pictures."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.ui import library_export, library_jobs, library_notes
from studio.ui.library import filled, find, page, run_of, stamp, stamped
from studio.ui.library_pictures import caption, pictures
from studio.ui.library_thumbs import HANDS, blank, cover, thumb, thumbs
from studio.ui.words import EMPTY

RUNS, PICTURES = 24, 40  # on a page
QUIET = 1.0  # seconds after which a page that was asked for is drawn
NONE = (
    "every word has to be in its name, method, model, subject, note or state. Take a word away, or clear the field to "
    "see all runs."
)
LARGE = 384  # pixels of a run's pictures, as the page of them shows them
Tile = tuple[str, str]  # file, words below it


@dataclass(frozen=True)
class Listing:
    """A page of runs. label: which page of how many, or what to do where there are none; matches: the names of all that
    were found; idle: of all runs that never began.
    """

    tiles: list[Tile] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    number: int = 1
    pages: int = 1
    label: str = ""
    matches: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Look:
    """One run: what it is, a page of its pictures with their files, its note, what can be exported."""

    about: str
    tiles: list[Tile]
    files: list[str]
    number: int
    pages: int
    label: str
    note: str
    kinds: list[Tile]


def listing(runs: Path, search: str, number: int) -> Listing:
    """The runs that a search finds, a page of them. Without a search only the runs of the page are read."""
    every, jobs = stamped(runs), library_jobs.told(runs)
    found = [row.folder for row in find(filled(every, jobs), search)] if search.split() else [path for path, _ in every]
    part, number, pages = page(found, number, RUNS)
    known = dict(every)
    shown = filled([(folder, known[folder]) for folder in part], jobs)
    files = list(HANDS.map(lambda folder: tile(folder, runs), part))
    tiles = [(str(file), entry.line()) for file, entry in zip(files, shown, strict=True)]
    label = said(search, len(every), len(found), number, pages)
    names, idle = [folder.name for folder in found], library_jobs.idle(every, jobs)
    return Listing(tiles, [entry.name for entry in shown], number, pages, label, names, idle)


def ahead(runs: Path, found: Listing, wait: float = QUIET) -> threading.Thread:
    """Makes the thumbnails of the page after this one, and reads what a search looks through: while the page is looked
    at, one picture at a time, and not before the page itself is drawn.
    """

    def work() -> None:
        time.sleep(wait)
        for name in found.matches[found.number * RUNS : (found.number + 1) * RUNS]:
            tile(runs / name, runs)
        filled(stamped(runs), {})

    worker = threading.Thread(target=work, name="ahead", daemon=True)
    worker.start()
    return worker


def said(search: str, every: int, found: int, number: int, pages: int) -> str:
    """`12 of 200 runs, page 1 of 1`."""
    if not every:
        return EMPTY["runs"]
    if not found:
        return f"No run of {every} matches `{plain(search)}`: {NONE}"
    count = f"{found} run{'s' * (found != 1)}" if found == every else f"{found} of {every} runs"
    return f"{count}, page {number} of {pages}"


def plain(text: str) -> str:
    """Words of a person's own inside Markdown."""
    return re.sub(r"[^\w .,:+-]", "", " ".join(text.split()))[:60]


def tile(folder: Path, runs: Path) -> Path:
    """The thumbnail of a run, or the tile of one that has drawn nothing."""
    picture = cover(folder)
    return (thumb(picture, runs) if picture else None) or blank(runs)


def look(runs: Path, name: str, number: int) -> Look:
    """One run with a page of its pictures. Raises UsageError when it is not there any more."""
    run = run_of(runs, name)
    found = pictures(run.folder)
    part, number, pages = page(found, number, PICTURES)
    small = zip(thumbs(part, runs, LARGE), part, strict=True)
    shown = [(str(one), path) for one, path in small if one is not None]
    tiles = [(one, caption(path, run.folder)) for one, path in shown]
    label = f"{len(found)} pictures, page {number} of {pages}" if found else "No pictures yet"
    kinds = [(library_export.KINDS[kind], kind) for kind in library_export.offered(run)]
    files, note = [str(path) for _, path in shown], library_notes.read(run.folder)
    return Look(about(runs, name), tiles, files, number, pages, label, note, kinds)


def about(runs: Path, name: str) -> str:
    """A run in Markdown, in the same state as below its thumbnail. Raises UsageError when it is not there any more."""
    folder = run_of(runs, name).folder
    (entry,) = filled([(folder, stamp(folder))], library_jobs.told(runs))
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.written)) if entry.written else "not begun"
    rows: dict[str, Any] = {
        "method": entry.trainer,
        "base model": Path(entry.model).name,
        "pictures from": entry.subject,
        "steps": f"{entry.step} of {entry.steps}",
        "last written": when,
        "cannot be read": entry.damage,
    }
    facts = ", ".join(f"{key} `{str(value).replace('`', '')}`" for key, value in rows.items() if value)
    return f"### {entry.name}: {entry.standing()}\n{facts}"
