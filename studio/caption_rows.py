"""What is known of a picture that is captioned: what is to do, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["written", "planned", "kept", "left out"]
Words = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """What became of one picture. name, file: of the picture and its text file, relative to the folder.

    twin: the caption without the trigger; before: what the file said; reason: why the caption was not made or written.
    """

    name: str
    state: State
    file: str = ""
    caption: str = ""
    twin: str = ""
    before: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Job:
    """A picture that wants a caption. words: trigger and class word; before, said: its text file's bytes, and text."""

    picture: Path
    name: str
    target: Path
    words: Words
    before: bytes = b""
    said: str = ""
