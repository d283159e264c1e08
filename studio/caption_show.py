"""What became of every picture that was to be captioned, for a person and for a program."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from studio import table
from studio.caption import Captioning
from studio.caption_rows import Row
from studio.data_audit import plural, short
from studio.events import Event
from studio.pipelines.data_image import shown
from studio.pipelines.errors import DataError
from studio.progress import Progress

STYLES = {"written": "green", "planned": "cyan", "kept": "yellow", "left out": "red"}
DOUBTS = 5  # named one by one


def run(work: Captioning, *, as_json: bool = False) -> list[Row]:
    """Caption everything, with progress on stderr; rows as a table, or one JSON object per line, on stdout.

    Raises DataError where there is no picture with a caption in the end, after the rows are shown.
    """
    rows: list[Row] = []
    try:
        for row in followed(work):
            rows.append(row)
            if as_json:
                print(json.dumps(asdict(row), ensure_ascii=False), flush=True)
    except KeyboardInterrupt:  # what is written stays, and the next call goes on
        print("; ".join(sentences(work, rows)), file=sys.stderr)
        raise
    rows.sort(key=lambda row: row.name)
    if as_json:
        print(json.dumps({"summary": summary(work, rows)}, ensure_ascii=False))
    else:
        tell(work, rows)
    if not any(row.state != "left out" for row in rows):
        reasons = "; ".join(f"{row.name}: {row.reason}" for row in rows[:3]) or "there is none"
        raise DataError(f"no picture in {shown(work.root)} could be captioned: {reasons}")
    return rows


def followed(work: Captioning) -> Iterator[Row]:
    """The rows, while stderr shows how far they are."""
    with Progress(0, out=sys.stderr) as progress:
        for done, row in enumerate(work, 1):
            yield row
            if done > len(work.settled):
                progress(Event("caption", event="progress", fields={"done": done, "total": len(work)}))


def tell(work: Captioning, rows: Iterable[Row]) -> None:
    """Print the table and what it comes to."""
    found = list(rows)
    table.show([[row.state, row.name, what(row)] for row in found], STYLES)
    print()
    print("; ".join(sentences(work, found)))
    for doubt in work.doubts[:DOUBTS]:
        print(f"studio: warning: {doubt}", file=sys.stderr)
    if len(work.doubts) > DOUBTS:
        print(f"studio: warning: and {len(work.doubts) - DOUBTS} more like these", file=sys.stderr)


def what(row: Row) -> str:
    """The caption, what it replaces, and the reason, as far as there are any."""
    replaced = f"(was: {short(row.before)})" if row.before and row.state in ("written", "planned") else ""
    reason = f"[{row.reason}]" if row.reason and row.caption else row.reason
    return shown(" ".join(part for part in (row.caption, replaced, reason) if part))


def sentences(work: Captioning, rows: Iterable[Row]) -> Iterator[str]:
    """What it comes to, in a few words each."""
    n = Counter(row.state for row in rows)
    yield (
        f"{plural(n['written'], 'caption')} written"
        if not work.wish.dry_run
        else (f"{plural(n['planned'], 'caption')} would be written; nothing was (--dry-run)")
    )
    if n["kept"]:
        yield f"{n['kept']} kept" + ("" if work.wish.force else " (--force makes them anew)")
    if n["left out"]:
        yield f"{n['left out']} left out"
    if work.backup is not None:
        yield f"what was replaced is in {shown(work.backup)}"


def summary(work: Captioning, rows: Iterable[Row]) -> dict[str, object]:
    """The same in numbers. backup: the zip of what was replaced, or None; captioner: who wrote, with its commit."""
    n: Counter[str] = Counter(row.state for row in rows)
    states = {state.replace(" ", "_"): n[state] for state in STYLES}
    backup = None if work.backup is None else str(work.backup)
    return {**states, "backup": backup, "warnings": work.doubts, "captioner": getattr(work.captioner, "id", "")}
