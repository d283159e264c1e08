"""A person's own words about a run: notes.txt in its folder."""

from __future__ import annotations

from pathlib import Path

from studio.pipelines.errors import UsageError
from studio.secrets import looks_secret
from studio.store import Run

FILE = "notes.txt"
LONGEST = 20_000  # characters


def read(folder: Path) -> str:
    """The note; "" where there is none."""
    try:
        with (folder / FILE).open(encoding="utf-8", errors="replace") as file:
            return file.read(LONGEST)
    except OSError:
        return ""


def write(run: Run, text: str) -> None:
    """Keeps a note; an empty one is deleted. Raises UsageError for one that is too long or holds a token."""
    text = text.strip()
    if len(text) > LONGEST:
        raise UsageError(f"the note has {len(text):,} characters, {LONGEST:,} are kept: shorten it")
    if looks_secret(text):
        raise UsageError("the note holds what looks like a token or a password: take it out, notes are plain files")
    if text:
        run.write(FILE, f"{text}\n")
    else:
        (run.folder / FILE).unlink(missing_ok=True)
