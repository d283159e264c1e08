"""What a page may say of this machine: nothing. Secrets, places and the account's name out of every text."""

from __future__ import annotations

import getpass
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.scrub import PATH, WHOLE
from studio.secrets import redact

EVERYBODY = frozenset(("", "root", "localhost", "user", "home", "users", "studio"))
ABOVE = "\N{HORIZONTAL ELLIPSIS}/"


def clean(value: object) -> str:
    """A text without secrets, with only the last part of each path, without the names of person and machine."""
    text = redact(str(value))
    text = last(text) if WHOLE.fullmatch(text) else PATH.sub(lambda found: last(found[0]), text)
    for name in names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<private>", text)
    return text


def said(text: str) -> str:
    """A prompt or caption: what a person wrote stays, but for secrets and places."""
    text = redact(text)
    return last(text) if WHOLE.fullmatch(text) else PATH.sub(lambda found: last(found[0]), text)


def last(path: str) -> str:
    """`…/name` of a path; where it ends is known, where it lies is not."""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", "~", ".", "..")]
    return ABOVE + (parts[-1] if parts else "")


def names() -> list[str]:
    """Names of the account, its home and the machine that are nobody else's, longest first."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = ""
    found = {user, Path.home().name, platform.node()}
    return sorted((name for name in found if name.lower() not in EVERYBODY), key=len, reverse=True)


def leaves(value: Any, name: str = "") -> list[tuple[str, str]]:
    """(cleaned dotted name, cleaned text) of every value of nested mappings; lists on one line."""
    if isinstance(value, Mapping):
        rows = ((f"{name}.{clean(key)}" if name else clean(key), inner) for key, inner in value.items())
        return [leaf for key, inner in rows for leaf in leaves(inner, key)]
    if isinstance(value, (list, tuple)):
        return [(name, ", ".join(clean(item) for item in value))]
    words = {True: "yes", False: "no"}.get(value, "") if isinstance(value, bool) else clean(value)
    return [(name, "-" if value is None or value != value else words)]
