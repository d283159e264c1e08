"""Which text file belongs to a picture, and whether it may be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from studio.caption_rows import Job, Row, Words
from studio.pipelines.confine import is_inside
from studio.pipelines.data_image import SUFFIXES, one_line, read_bytes, shown
from studio.pipelines.data_sidecars import MOST_TEXT, SIDECARS, text
from studio.pipelines.layouts import Found, Listing


@dataclass
class Plan:
    """Every picture of a folder, as a job or already decided. force: captions that are there are made anew."""

    root: Path
    force: bool = False
    recursive: bool = True
    words: Words = ("", "")
    taken: dict[Path, str] = field(default_factory=dict)

    def __call__(self, listing: Listing) -> Iterator[Job | Row]:
        """One item per picture file, also for those that training would not use."""
        for found in listing.found:
            yield self.item(found)
        for rejected in listing.rejected:
            if rejected.path.suffix.lower() in SUFFIXES and os.path.lexists(rejected.path) or rejected.path.is_dir():
                yield Row(self.name(rejected.path), "left out", reason=rejected.reason)

    def item(self, found: Found) -> Job | Row:
        """One picture: a job, or the reason why not."""
        name, target = shown(found.name), beside(found.path)
        row = Row(name, "kept", self.name(target), found.caption)
        if not self.recursive and "/" in found.name:
            return Row(name, "left out", reason="in a subfolder")
        if found.source == "metadata":
            why = "its metadata file says it, and goes before a text file: change it there"
            return Row(name, "kept", caption=found.caption, reason=why)
        if found.caption and not self.force:
            return row
        if reason := self.closed(target):
            return replace(row, state="left out", caption="", reason=reason)
        try:
            before = read_bytes(target, MOST_TEXT) if target.exists() else b""
        except OSError as error:
            return replace(row, state="left out", reason=f"{row.file}: {error.strerror or one_line(error)}")
        if not self.force and not blank(target):
            return replace(row, reason="its text file cannot be read as text")
        self.taken[target] = name
        words = found.words if found.words and all(found.words) else self.words
        said = found.caption or before.decode("utf-8", "backslashreplace").strip()
        return Job(found.path, name, target, words, before, said)

    def closed(self, target: Path) -> str:
        """Why a text file must not be written; '' where it may."""
        if other := self.taken.get(target):
            return f"{target.name} is the caption of {other} too"
        if not is_inside(self.root, target.parent):
            return "it lies behind a link that leads out of the folder: caption it there"
        if os.path.lexists(target) and not (target.is_file() and is_inside(self.root, target)):
            return f"{target.name} is no file of this folder"
        return ""

    def name(self, path: Path) -> str:
        """The path relative to the folder."""
        return shown(path.relative_to(self.root).as_posix())


def beside(picture: Path) -> Path:
    """The text file that training reads for a picture: the one that is there, or the first that it looks for."""
    places = [picture.with_suffix(suffix) for suffix in SIDECARS]
    return next((place for place in places if os.path.lexists(place)), places[0])


def blank(path: Path) -> bool:
    """Whether a file is not there or says nothing; one that is no text says something."""
    try:
        return not path.exists() or not text(path).strip()
    except (OSError, ValueError):
        return False
