"""Captions in text files beside their pictures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from studio.pipelines.data_image import one_line, read_bytes
from studio.pipelines.data_walk import Ledger

SIDECARS = (".txt", ".caption")  # the first that is there is used
BASE = ".base.txt"  # the caption without the trigger, where it is not the caption's twin
Captions = dict[Path, str]
MOST_TEXT = 2**26  # bytes of a caption or metadata file
BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def find_sidecars(
    pictures: Sequence[Path], captioned: Collection[Path], files: Sequence[Path], ledger: Ledger
) -> dict[Path, str]:
    """Picture -> the caption in the file beside it; captioned: those whose metadata row goes first."""
    there, found = set(files), {}
    superseded: dict[Path, str] = {}
    for picture in pictures:
        beside = [p for p in (picture.with_suffix(suffix) for suffix in SIDECARS) if p in there]
        if picture in captioned:
            superseded |= dict.fromkeys(beside, "the metadata row's caption was used")
        elif beside:
            found[picture] = read_caption(beside[0], picture, ledger)
            superseded |= dict.fromkeys(beside[1:], f"a second caption; {ledger.name(beside[0])} was used")
    for path, reason in superseded.items():
        if path not in ledger.known:  # two pictures may share a stem
            ledger.reject(path, reason)
    return found


def find_bases(pictures: Sequence[Path], said: Collection[Path], files: Sequence[Path], ledger: Ledger) -> Captions:
    """Picture -> the base caption in the `.base.txt` beside it; said: those whose metadata row goes first."""
    there, found = set(files), {}
    for picture in pictures:
        path = picture.with_suffix(BASE)
        if path in there and path not in ledger.known:  # a picture may be called cat.base.png
            if picture in said:
                ledger.reject(path, "the metadata row's base caption was used")
            else:
                found[picture] = read_caption(path, picture, ledger, "base caption", "the caption's twin")
    return found


def read_caption(path: Path, picture: Path, ledger: Ledger, kind: str = "caption", instead: str = "the prompt") -> str:
    """A sidecar's caption; '' with a warning where it is empty or no text."""
    try:
        caption = text(path).strip()
        problem = "" if caption else "is empty"
    except (OSError, ValueError) as error:
        caption, problem = "", f"cannot be read ({one_line(error)})"
    if problem:
        ledger.warn(f"{ledger.name(path)} {problem}: {instead} stands in for it")
    ledger.know(path, kind, picture, problem)
    return caption


def text(path: Path) -> str:
    """The file's text, whichever Unicode encoding an editor left it in. OSError or ValueError otherwise."""
    data = read_bytes(path, MOST_TEXT)
    encoding = next((name for bom, name in BOMS if data.startswith(bom)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
