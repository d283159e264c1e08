"""What the browser remembers of a tab over reloads: scripts for localStorage, and values that may be anything there.

Not gr.BrowserState, which in a tab that was not yet seen is empty. Nothing secret is kept here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 200  # letters of a word


def keep(tab: str, names: Sequence[str]) -> str:
    """A script that keeps its inputs under these names; not before the tab has taken what was there."""
    return f"(...values) => {{ if (!window['studioTook-{tab}']) return; {stored(tab, names)} }}"


def stored(tab: str, names: Sequence[str]) -> str:
    """The statement that writes `values`."""
    pairs = f"Object.fromEntries({json.dumps(list(names))}.map((name, at) => [name, values[at]]))"
    return f"localStorage.setItem('studio-{tab}', JSON.stringify({pairs}));"


def kept(tab: str) -> str:
    """A script that returns what was kept, {} where that is nothing."""
    found = f"JSON.parse(localStorage.getItem('studio-{tab}')) ?? {{}}"
    return f"() => {{ try {{ return {found}; }} catch {{ return {{}}; }} }}"


def taken(tab: str, names: Sequence[str] = ()) -> str:
    """A script after which changes are kept, and its inputs now: something may have been chosen in the meantime."""
    return f"(...values) => {{ window['studioTook-{tab}'] = true; {stored(tab, names) if names else ''} }}"


def word(found: Any, name: str) -> str:
    """A text that was kept; "" for anything else."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) and len(value) <= LONGEST else ""


def words(found: Any, name: str, most: int) -> list[str]:
    """A list of texts that was kept."""
    value = found.get(name) if isinstance(found, dict) else None
    rows = value if isinstance(value, list) else []
    return [one for one in rows if isinstance(one, str) and len(one) <= LONGEST][:most]


def whole(found: Any, name: str, least: int, most: int, default: int) -> int:
    """A number that was kept, within its bounds."""
    value = found.get(name) if isinstance(found, dict) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most:
        return int(value)
    return default


def yes(found: Any, name: str, default: bool) -> bool:
    """A tick that was kept."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, bool) else default


def gone(wanted: Iterable[str], known: Iterable[str], what: str) -> str:
    """`fox and owl are not there any more: what.`; "" where all are."""
    there = set(known)
    names = [name for name in wanted if name and name not in there]
    if not names:
        return ""
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f"{listed} {'are' if len(names) > 1 else 'is'} not there any more: {what}."
