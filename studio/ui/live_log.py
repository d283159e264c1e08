"""The end of a run's log: what its events say, what its process printed, what went to log.txt."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from studio import logs
from studio.events import Event
from studio.progress import words
from studio.secrets import redact
from studio.ui.live_tail import parsed

JOB = "job.log"
LINES, BYTES = 60, 2**16
SIGNS = ("events.jsonl", JOB, logs.NAME, "samples", "checkpoints")  # what a run at work writes to
QUIET = ("memory", "audit", "plan", "progress")  # said elsewhere on the page, or in report.html


def stamp(folder: Path) -> tuple[int, ...]:
    """Changes when one of the logs grows."""
    sizes = []
    for name in (JOB, logs.NAME):
        try:
            sizes.append((folder / name).stat().st_size)
        except OSError:
            sizes.append(-1)
    return tuple(sizes)


def heard(folder: Path) -> float:
    """When the run last wrote anything, unix seconds; 0.0 where it never did: phases count in job.log alone."""
    moments = []
    for name in SIGNS:
        with suppress(OSError):
            moments.append((folder / name).stat().st_mtime)
    return max(moments, default=0.0)


def said(event: Event) -> str:
    """`12:03:11 train   checkpoint: checkpoints/step-000050`; '' for what is no news."""
    if not event.event or event.event in QUIET:
        return ""
    clock = time.strftime("%H:%M:%S", time.localtime(event.time))
    return redact(f"{clock} {event.phase:<7} {words(event)}")


def end(file: Path) -> list[str]:
    """The last whole lines of a text file, of its last 64 KiB; [] where it cannot be read."""
    try:
        with file.open("rb") as opened:
            start = max(0, opened.seek(0, 2) - BYTES)
            opened.seek(start)
            text = opened.read(BYTES)
    except OSError:
        return []
    lines = text.decode("utf-8", "replace").splitlines()
    return lines[1:] if start else lines


def printed(folder: Path, known: Iterable[str] = ()) -> list[str]:
    """What the run's process printed beside its events. known: sentences that need not be said twice."""
    told = " ".join(known)
    lines = [line.rstrip() for line in end(folder / JOB) if line.strip() and not line.startswith('{"time"')]
    lines = [line for line in lines if line.removeprefix("studio: ").removeprefix("warning: ") not in told]
    return [redact(line) for line in lines][-LINES:]


@dataclass(frozen=True)
class Count:
    """How far a phase is that counts. what: of which pictures, "" where it does not say; round, rounds: which of how
    many such counts it is; since: when the first of them began; now: when it said this, unix seconds.
    """

    phase: str
    done: int
    total: int
    what: str = ""
    round: int = 1
    rounds: int = 1
    since: float = 0.0
    now: float = 0.0

    def left(self, now: float) -> float | None:
        """Seconds until the last round ends, by how long all before took; None while nobody can say."""
        share = (self.round - 1 + self.done / max(1, self.total)) / max(1, self.rounds)
        if not self.since or not 0 < share <= 1:
            return None
        return max(0.0, (self.now - self.since) * (1 / share - 1) - max(0.0, now - self.now))


def counting(folder: Path) -> Count | None:
    """The newest event in job.log, where that is a phase's progress: no run keeps those."""
    for line in reversed(end(folder / JOB)):
        if (event := parsed(line.encode())) is None:
            continue
        return count(event) if event.event == "progress" else None
    return None


def count(event: Event) -> Count | None:
    """A phase's progress; None where it has no numbers."""
    said = event.fields
    done, total = said.get("done"), said.get("total")
    if not isinstance(done, int) or not isinstance(total, int):
        return None
    first, many = said.get("round"), said.get("rounds")
    rounds = (first, many) if isinstance(first, int) and isinstance(many, int) else (1, 1)
    since = said.get("since")
    began = float(since) if isinstance(since, (int, float)) else 0.0
    return Count(event.phase, done, total, str(said.get("what", "")), *rounds, began, event.time)


def text(folder: Path, news: Iterable[str]) -> str:
    """The log as the page shows it. news: what the events said."""
    told = list(news)[-LINES:]
    parts = {"": told, "printed by the process": printed(folder, told), logs.NAME: end(folder / logs.NAME)[-LINES:]}
    blocks = [[*([f"--- {name}"] if name else []), *map(redact, lines)] for name, lines in parts.items() if lines]
    return "\n".join("\n".join(block) for block in blocks)
