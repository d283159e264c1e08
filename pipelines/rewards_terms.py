"""One term of a reward as a person writes it: `0.5*hps`, `embedded-wish(wish=colour=teal)`, `package.module:function`.

A term is `[weight*]name[(setting=value, ...)]`. The name is a scorer's number (`clip-t`) or file (`clip_text`), a
Python callable as `module:function`, or the address of a judge that answers over HTTP. A value reaches to the next
comma; one with a comma in it stands in double quotes. On a command line the shell wants quotes around all of it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal
from urllib.parse import SplitResult, urlsplit

WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*\*\s*(.*)", re.IGNORECASE | re.DOTALL)
SCORER = re.compile(r"([a-z][\w. -]*?)\s*(?:\((.*)\))?", re.IGNORECASE | re.DOTALL)
CALLABLE = re.compile(r"[a-z_]\w*(?:\.[a-z_]\w*)*:[a-z_]\w*", re.IGNORECASE)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
SETTING = re.compile(r'\s*([a-z_]\w*)\s*=\s*("[^"]*"|[^,"]*)\s*(?:,|$)', re.IGNORECASE)
MARK = 4  # letters of the hash of a query: enough to tell judges apart, too few to find a key by
HOW = "write [weight*]name[(setting=value)], e.g. 0.5*hps, embedded-wish(wish=colour=teal) or module:function"


@dataclass(frozen=True)
class Term:
    """What a text means. label: how it is called in numbers; settings: of a scorer, in words."""

    text: str
    weight: float
    name: str
    kind: Literal["scorer", "python", "remote"]
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The text as messages have it."""
        return f"{self.weight:g}*{self.label}" if self.kind == "remote" else self.text

    @property
    def label(self) -> str:
        """The term without its weight; of an address what tells it from others, and nothing that may be a key."""
        if self.kind == "remote":
            parts = urlsplit(self.name)
            hidden = f"{parts.query}#{parts.fragment}"  # may hold a key
            mark = "" if hidden == "#" else f"?{sha256(hidden.encode()).hexdigest()[:MARK]}"
            secure = "https://" if parts.scheme.lower() == "https" else ""
            port = f":{parts.port}" if parts.port is not None else ""
            return secure + f"{host(parts)}{port}{parts.path}".rstrip("/") + mark
        said = ", ".join(
            f'{key}="{value}"' if "," in value else f"{key}={value}" for key, value in self.settings.items()
        )
        name = spelled(self.name) if self.kind == "scorer" else self.name
        return f"{name}({said})" if said else name


def parse(text: str) -> Term:
    """A term. Raises ValueError with one sentence."""
    weighted = WEIGHT.fullmatch(text)
    weight, rest = (float(weighted[1]), weighted[2]) if weighted else (1.0, text)
    rest = rest.strip()
    if weight == 0 or not math.isfinite(weight):
        raise ValueError(f"the weight of '{text}' is {weight:g}: give another number, or leave the term out")
    if ADDRESS.match(rest):
        return Term(text, weight, address(rest), "remote")
    if CALLABLE.fullmatch(rest):
        return Term(text, weight, rest, "python")
    found = SCORER.fullmatch(rest)
    if not found:
        raise ValueError(f"'{text}' is no term of a reward: {HOW}")
    return Term(text, weight, found[1], "scorer", settings(found[2] or "", text))


def settings(inside: str, text: str) -> dict[str, str]:
    """The settings between a term's brackets. Raises ValueError for anything else there, or one that comes twice."""
    found: dict[str, str] = {}
    at = 0
    while inside[at:].strip():
        match = SETTING.match(inside, at)
        if not match or match[1] in found:
            raise ValueError(f"'{text}': '{inside[at:].strip()}' is no further setting=value: {HOW}")
        found[match[1]] = match[2].strip().strip('"')
        at = match.end()
    return found


def host(parts: SplitResult) -> str:
    """The host as addresses have it: IPv6 in brackets."""
    name = parts.hostname or ""
    return f"[{name}]" if ":" in name else name


def address(text: str) -> str:
    """The address of a judge. Raises ValueError unless it is http or https, has a host, and holds no password."""
    shown = text.partition("?")[0]  # behind it there may be a key
    try:
        parts = urlsplit(text)
        there, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"'{shown}' is no address: {error}") from None
    if parts.scheme.lower() not in ("http", "https") or not there:
        raise ValueError(f"'{shown}': a remote judge is asked over http:// or https://, with a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"the address of the judge at {there} holds a name or a password, which runs would keep")
    return text


def spelled(name: str) -> str:
    """How names are compared: `JPEG size`, `jpeg_size` and `jpeg-size` are one."""
    return re.sub(r"[ _]+", "-", name.strip().lower())


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
