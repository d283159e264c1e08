"""Secrets out of every text that is kept: tokens and keys, by their looks and by the environment's names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

HIDDEN = "<secret>"
NAMED = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|KEY|APIKEY|CREDENTIALS?)(_|$)", re.I)
SHORTEST = 8  # a shorter value ("true", "0") is no secret, and would be found in every second word
CERTAIN = 16  # characters from which a value that stands in a prompt is no coincidence
LOOKS = re.compile(
    r"hf_[A-Za-z0-9]{16,}"
    r"|api_org_[A-Za-z0-9]{8,}"
    r"|wandb_v\d+_\w{8,}"
    r"|\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}"
    r"|\bgh[a-z]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|(?<=://)[^\s/@\"']+(?=@)"
    r"|(?i:(?<=bearer )[\w.~+/=-]{8,})"
    r"|(?i:(?<=[?&]token=)|(?<=[?&]key=)|(?<=[?&]api_key=)|(?<=access_token=)|(?<=password=))[^\s&\"']+"
    r"|(?i:(?<=[?&;])(?!(?:token|key|api_key)=)(?:[\w.-]*[_.-])?(?:api)?"
    r"(?:key|token|secret|passw(?:or)?d|pwd|auth|sig(?:nature)?|credentials?)=[^\s&\"'<]+)"
    r"|(?:(?<=_KEY=)|(?<=_TOKEN=)|(?<=_SECRET=)|(?<=_PASSWORD=))[^\s\"']+"
)


def redact(text: str) -> str:
    """The text with every secret replaced by `<secret>`."""
    for value in values():
        text = text.replace(value, HIDDEN)
    return LOOKS.sub(HIDDEN, text)


def values() -> Iterator[str]:
    """What the environment's variables with a secret's name hold, longest first."""
    found = {value for name, value in os.environ.items() if NAMED.search(name) and len(value) >= SHORTEST}
    yield from sorted(found, key=len, reverse=True)


def looks_secret(text: str) -> bool:
    """Whether a text holds what may not be kept; short values of the environment may be words of a prompt."""
    return LOOKS.search(text) is not None or any(len(value) >= CERTAIN and value in text for value in values())
