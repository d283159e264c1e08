"""Captions, base captions, repeats and weights in `metadata.jsonl` or `metadata.csv`."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.pipelines.data_image import one_line, shown
from studio.pipelines.data_sidecars import text
from studio.pipelines.data_walk import MOST_REPEATS, Ledger

METADATA = ("metadata.jsonl", "metadata.csv")  # the first that is there is used
CAPTION_KEYS = ("text", "caption", "prompt")
ALL = "file_name, text, base, repeats and weight"
KNOWN = {"file_name", *CAPTION_KEYS, "base", "repeats", "weight"}


@dataclass(frozen=True)
class Row:
    """One metadata row: the file it names and what it says about it; `problem` where it cannot be used.

    base: the caption without the trigger; unread: keys that mean nothing here.
    """

    where: str
    path: Path
    caption: str = ""
    repeats: int = 1
    weight: float = 1.0
    problem: str = ""
    unread: tuple[str, ...] = ()
    base: str = ""


def find_rows(pictures: Sequence[Path], files: Sequence[Path], ledger: Ledger) -> dict[Path, Row]:
    """Picture -> its metadata row. Rows that are broken, doubled or name no picture are rejected."""
    found: dict[Path, Row] = {}
    there = {os.path.normpath(path): path for path in pictures}
    for path in sorted(p for p in files if p.name in METADATA):
        preferred = path.with_name(METADATA[0])
        if path != preferred and preferred in files:
            ledger.reject(path, f"{preferred.name} beside it was read")
            continue
        for row in read_rows(path, ledger):
            picture = there.get(os.path.normpath(row.path))
            reason = row.problem or ("" if picture else f"{row.where} names it, but there is no such picture")
            if picture in found:
                reason = f"{row.where} names {ledger.name(row.path)} again"
            if picture is None or reason:
                missing = not row.problem and not os.path.lexists(row.path)
                # what lies there has an entry of its own: then it is the row that is refused
                ledger.reject(row.path if missing else path.with_name(row.where), reason)
            else:
                found[picture] = row
    return found


def read_rows(path: Path, ledger: Ledger) -> Iterator[Row]:
    """The file's rows; a file that is no text is rejected."""
    try:
        found = list(rows(path))
    except (OSError, ValueError, csv.Error) as error:
        ledger.reject(path, f"cannot be read: {one_line(error)}")
        return
    ledger.know(path, "metadata")
    if unread := sorted({key for row in found for key in row.unread}):
        ledger.warn(f"{ledger.name(path)}: nothing is read from {shown(', '.join(unread[:5]))}: it knows {ALL}")
    yield from found


def rows(path: Path) -> Iterator[Row]:
    """The rows of a metadata file, unusable ones with their `problem`. OSError, ValueError: it is no text."""
    content = text(path)
    entries = csv_entries(content) if path.suffix == ".csv" else json_entries(content)
    for line, entry in entries:
        yield row(path, f"{path.name} line {line}", entry)


def json_entries(content: str) -> Iterator[tuple[int, Any]]:
    """(line number, parsed value or None) of JSON lines; blank lines are skipped."""
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def csv_entries(content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, row by column name) of comma-separated values with a header line."""
    reader = csv.DictReader(io.StringIO(content, newline=""))
    for entry in reader:
        yield reader.line_num, entry


def row(path: Path, where: str, entry: Any) -> Row:
    """One parsed metadata entry, checked."""
    name = entry.get("file_name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str) or not name or "\0" in name:
        return Row(where, path.with_name(where), problem="not a row with a file_name")
    target = path.parent / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return Row(where, target, problem=f"{where} points outside the folder")
    caption, base = said(entry, CAPTION_KEYS), said(entry, ("base",))
    try:
        repeats, weight = number(entry, "repeats"), number(entry, "weight")
    except (TypeError, ValueError, OverflowError):
        repeats, weight = 0, 0
    if repeats not in range(1, MOST_REPEATS + 1) or not 0 <= weight < math.inf:
        return Row(where, target, caption, problem=f"{where}: repeats or weight is out of range")
    unread = tuple(str(key)[:40] for key in entry if key not in KNOWN)
    return Row(where, target, caption, int(repeats), weight, unread=unread, base=base)


def said(entry: Mapping[str, Any], keys: Sequence[str]) -> str:
    """What the entry says under the first of the keys that says anything; '' where none does."""
    texts = (entry.get(key) for key in keys)
    return next((str(text) for text in texts if text and isinstance(text, str | int | float)), "")


def number(entry: Mapping[str, Any], key: str) -> float:
    """The entry's number under `key`, 1 where it has none; whatever `float` raises for what is no number."""
    return 1.0 if entry.get(key) in (None, "") else float(entry[key])
