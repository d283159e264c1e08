"""What the Library tab draws: a page of runs with their thumbnails, and one run with a page of its pictures."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.ui import library_export, library_notes
from studio.ui.jobs import Queue
from studio.ui.library import Entry, entries, find, page, read, run_of, stamp
from studio.ui.library_pictures import caption, pictures
from studio.ui.library_thumbs import HANDS, blank, cover, thumb, thumbs
from studio.ui.words import EMPTY

RUNS, PICTURES = 24, 40  # on a page
LARGE = 384  # pixels of a run's pictures, as the page of them shows them
Tile = tuple[str, str]  # file, words below it


@dataclass(frozen=True)
class Listing:
    """A page of runs. label: which page of how many, or what to do where there are none."""

    tiles: list[Tile] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    number: int = 1
    pages: int = 1
    label: str = ""


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
    """The runs that a search finds, a page of them."""
    jobs = {job.run: job.state for job in Queue(runs).jobs() if job.run and not job.end}
    every = entries(runs, jobs)
    found = find(every, search)
    part, number, pages = page(found, number, RUNS)
    files = list(HANDS.map(lambda entry: tile(entry, runs), part))
    tiles = [(str(file), entry.line()) for file, entry in zip(files, part, strict=True)]
    return Listing(tiles, [entry.name for entry in part], number, pages, said(len(every), len(found), number, pages))


def ahead(runs: Path, search: str, number: int) -> None:
    """Makes the thumbnails of the page after this one, while it is looked at."""
    threading.Thread(target=listing, args=(runs, search, number + 1), name="ahead", daemon=True).start()


def said(every: int, found: int, number: int, pages: int) -> str:
    """`12 of 200 runs, page 1 of 1`."""
    if not every:
        return EMPTY["runs"]
    if not found:
        return f"No run of {every} matches: every word has to be in its name, method, model, subject, note or state."
    count = f"{found} run{'s' * (found != 1)}" if found == every else f"{found} of {every} runs"
    return f"{count}, page {number} of {pages}"


def tile(entry: Entry, runs: Path) -> Path:
    """The thumbnail of a run, or the tile of one that has drawn nothing."""
    picture = cover(entry.folder)
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
    return Look(about(read(run.folder, stamp(run.folder))), tiles, files, number, pages, label, note, kinds)


def about(entry: Entry) -> str:
    """A run in Markdown."""
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
    return f"### {entry.name}: {entry.state()}\n{facts}"
