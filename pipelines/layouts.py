"""Which files of a folder are training pictures, in every layout people bring, and where all the others went.

Read as they are: a flat folder, caption sidecars (`.txt`, `.caption`), kohya's `10_sks dog/`, imagefolder's
`metadata.jsonl` / `metadata.csv`, masks beside the pictures, and a single picture file. Layouts may be mixed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studio.pipelines.data_image import SUFFIXES, shown
from studio.pipelines.data_masks import find_masks, mask_base
from studio.pipelines.data_metadata import Row, find_rows
from studio.pipelines.data_sidecars import BASE, SIDECARS, find_bases, find_sidecars
from studio.pipelines.data_walk import MOST_REPEATS, Companion, Ledger, Rejected, is_system, walk
from studio.pipelines.errors import DataError

KOHYA = re.compile(r"(\d+)_(.+)")
Source = Literal["metadata", "sidecar", "empty", "missing"]


@dataclass(frozen=True)
class Found:
    """A picture file and what its surroundings say about it. `caption` is '' where nothing does.

    name: path relative to the folder, with `/`; words: (trigger, class word) of a kohya folder's name, or
    None; source: where the caption is from: metadata, sidecar, empty (a file that says nothing) or missing;
    base: the caption without the trigger, '' where nothing says it.
    """

    path: Path
    name: str
    caption: str = ""
    mask: Path | None = None
    repeats: int = 1
    weight: float = 1.0
    words: tuple[str, str] | None = None
    source: Source = "missing"
    base: str = ""


@dataclass(frozen=True)
class Listing:
    """Every file of a folder, once: a picture, known beside pictures (captions, masks), or rejected."""

    layout: str
    found: tuple[Found, ...]
    known: Mapping[Path, Companion]
    rejected: tuple[Rejected, ...]
    warnings: tuple[str, ...]


def scan(folder: Path) -> Listing:
    """Every file below `folder`; only captions and metadata are opened.

    OSError: the folder is closed; DataError: it cannot be one of pictures.
    """
    if is_system(folder):
        raise DataError(f"{shown(folder)} is the system's own, and no folder of pictures")
    ledger = Ledger(folder)
    files = sorted(walk(folder, ledger))
    return listing(ledger, [path for path in files if path.suffix.lower() in SUFFIXES], files)


def scan_file(picture: Path) -> Listing:
    """A single picture, with the caption and the mask beside it; its other neighbours are left alone."""
    ledger = Ledger(picture.parent)
    beside = [path for path in walk(picture.parent, Ledger(picture.parent), deep=False) if path != picture]
    stems = {picture.parent: {picture.stem}}
    masks = [p for p in beside if p.suffix.lower() in SUFFIXES and mask_base(p, stems) == (p.parent, picture.stem)]
    texts = (picture.with_suffix(suffix) for suffix in (*SIDECARS, BASE))
    sidecars = [path for path in texts if path in beside]
    return listing(ledger, [picture, *masks], [picture, *sidecars, *masks])


def listing(ledger: Ledger, images: Sequence[Path], files: Sequence[Path]) -> Listing:
    """Sort the files into pictures, what belongs to them, and the rest."""
    masks = find_masks(images, ledger)
    apart = {*ledger.known, *(r.path for r in ledger.rejected)}
    pictures = [path for path in images if path not in apart]
    rows = find_rows(pictures, files, ledger)
    sidecars = find_sidecars(pictures, {path for path, row in rows.items() if row.caption}, files, ledger)
    bases = find_bases(pictures, {path for path, row in rows.items() if row.base}, files, ledger)
    found = [entry(path, rows.get(path), sidecars, bases, masks, ledger) for path in pictures]
    settled = {*pictures, *ledger.known, *(r.path for r in ledger.rejected)}
    for path in files:
        if path not in settled:
            orphan = "no picture has this name" if path.suffix.lower() in SIDECARS else "not a picture"
            ledger.reject(path, orphan)
    used = [f for f in found if f.repeats > 0]
    for idle in (f for f in found if f.repeats == 0):
        ledger.reject(idle.path, "its folder's name says 0 repeats")
    return Listing(layout(used, rows, sidecars), tuple(used), dict(sorted(ledger.known.items())), *frozen(ledger))


def frozen(ledger: Ledger) -> tuple[tuple[Rejected, ...], tuple[str, ...]]:
    """What was rejected, by path, and the warnings, each once."""
    rejected = sorted(ledger.rejected, key=lambda r: (r.path, r.reason))
    return tuple(rejected), tuple(dict.fromkeys(ledger.warnings))


def entry(
    path: Path,
    row: Row | None,
    sidecars: Mapping[Path, str],
    bases: Mapping[Path, str],
    masks: Mapping[tuple[Path, str], Path],
    ledger: Ledger,
) -> Found:
    """One picture with everything its surroundings say."""
    name = path.relative_to(ledger.folder).as_posix()
    repeats, words = kohya(path, ledger)
    if row is not None:
        repeats *= row.repeats
    said, beside = row.caption if row else "", sidecars.get(path)
    mask = masks.get((path.parent, path.stem))
    if mask is not None:
        ledger.know(mask, "mask", path)
    return Found(
        path=path,
        name=name,
        caption=said or beside or "",
        mask=mask,
        repeats=repeats,
        weight=row.weight if row else 1.0,
        words=words,
        source="metadata" if said else "sidecar" if beside else "missing" if beside is None else "empty",
        base=row.base if row and row.base else bases.get(path, ""),
    )


def kohya(path: Path, ledger: Ledger) -> tuple[int, tuple[str, str] | None]:
    """Repeats and (trigger, class word) from the nearest `10_sks dog` above the picture, or 1, None."""
    for part in reversed(path.relative_to(ledger.folder).parts[:-1]):
        if match := KOHYA.fullmatch(part):
            repeats, (trigger, _, word) = int(match[1]), match[2].strip().partition(" ")
            if repeats <= MOST_REPEATS:
                return repeats, (trigger, word.strip())
            ledger.warn(f"{shown(part)}: its number is too large for repeats and was left alone")
    return 1, None


def layout(found: Sequence[Found], rows: Mapping[Path, Row], sidecars: Mapping[Path, str]) -> str:
    """The layouts recognised, as a person names them."""
    seen = {
        "kohya": any(f.words for f in found),
        "imagefolder": bool(rows),
        "sidecars": bool(sidecars),
        "masks": any(f.mask for f in found),
    }
    return " + ".join(name for name, there in seen.items() if there) or "flat"
