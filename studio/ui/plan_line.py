"""What a run will take, said beside the start button: planned in a process of its own, which stays for the next time.

`python -m studio.ui.plan_line` reads lines of JSON, [number, config as TOML], and answers each: [number, plan].
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.config import RunConfig

PATIENCE = 90.0  # seconds for one answer; the first has libraries to load
MOST_LATE = 3  # answers in a row that a worker may be late with: loading takes long on a busy machine
KEPT = 64  # answers
AGAIN = "_Memory and time are being planned for these settings…_"
FIRST = "Memory and time are planned here as soon as there are pictures, or a setting is changed."
NONE = "Memory and time are planned here when the settings are right."
LATER = "Memory and time are not planned yet: the machine is busy, and is asked again."


class Planner:
    """Plans configs one after another; what was asked before is answered at once. Safe with many threads."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.known: dict[tuple[str, ...], str] = {}
        self.lock = threading.Lock()
        self.worker: Worker | None = None

    def __call__(self, config: RunConfig, beside: tuple[str, ...] = ()) -> str:
        """The plan in one line, or why there is none, as a sentence. beside: runs at work, or before it, meanwhile."""
        toml = text(config)
        key = (toml, *beside)  # what is free, and how fast the machine is, is another thing beside other runs
        with self.lock:
            if key not in self.known:
                said = self.ask(toml)
                if said is None:
                    return LATER
                self.known[key] = said + (meanwhile(beside) if said.startswith("**") else "")
                self.known = dict(list(self.known.items())[-KEPT:])
            return self.known[key]

    def knows(self, config: RunConfig, beside: tuple[str, ...] = ()) -> bool:
        """Whether the plan is there already."""
        return (text(config), *beside) in self.known

    def ask(self, key: str) -> str | None:
        """The worker's answer; None when it has none in time, or is gone: then another one is started for the next."""
        if self.worker is not None and not self.worker.alive:
            self.close()
        self.worker = self.worker or Worker()
        found = self.worker.answer(key, self.patience)
        if found is None and (not self.worker.alive or self.worker.late >= MOST_LATE):
            self.close()
        return found

    def close(self) -> None:
        """Ends the worker."""
        if self.worker is not None:
            self.worker.end()
            self.worker = None


@dataclass
class Page:
    """What one open page asked for last: its draft, and the runs beside which it was planned; None before that."""

    draft: dict[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] | None = None


class Asked:
    """The open pages, by the session's name. A plan takes its time, and by then the page may want another one."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.pages: dict[str, Page] = {}

    def of(self, session: str | None) -> Page:
        """The page of a session; the oldest ones are forgotten."""
        found = self.pages.setdefault(session or "", Page())
        while len(self.pages) > self.most:
            self.pages.pop(next(iter(self.pages)), None)
        return found


class Worker:
    """The planning process. It ends with its standard input, so also when this process dies."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "studio.ui.plan_line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.asked = self.late = 0
        self.listener = threading.Thread(target=self.listen, name="plans", daemon=True)
        self.listener.start()

    def listen(self) -> None:
        """Takes the answers off the pipe; the end of it is an empty line."""
        for line in self.process.stdout or ():
            self.lines.put(line)
        self.lines.put("")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def answer(self, key: str, patience: float) -> str | None:
        """The answer to one config; None when none comes in time."""
        pipe, until = self.process.stdin, time.monotonic() + patience
        if pipe is None:
            return None
        self.asked += 1
        try:
            pipe.write(json.dumps([self.asked, key]) + "\n")
            pipe.flush()
            while line := self.lines.get(timeout=max(0.0, until - time.monotonic())):
                number, said = json.loads(line)
                if number == self.asked:  # not one that came too late for who asked
                    self.late = 0
                    return str(said)
        except queue.Empty:
            self.late += 1
        except (OSError, ValueError):
            return None  # it is gone, or about to go
        return None

    def end(self) -> None:
        """Stops the process, at once."""
        self.process.kill()
        self.process.wait()
        self.listener.join(5)
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def text(config: RunConfig) -> str:
    """The config as TOML: what an answer is kept under. Names and seeds change nothing and are left out."""
    from studio.config import to_toml

    return to_toml(config.model_copy(update={"run": "", "seed": 0}))


def planned(toml: str) -> str:
    """The plan of a TOML config in one line. Raises StudioError as the run would."""
    from studio import ladder, plan, subjects
    from studio.config import make
    from studio.toml import parse
    from studio.train import trusted

    values: dict[str, Any] = parse(toml, "the form").unwrap()
    settings = values.pop(values["trainer"], {})
    config = trusted(subjects.resolve(make(toml={**values, "settings": settings})))
    made = plan.of(config)
    train = made.phase("train")
    way: list[str] = []
    if train.peak > made.free:
        room = made.free - train.peak + plan.changeable(train)
        _, way, size = ladder.until_it_fits(config, ladder.Have.here(), plan.training, room)
        way = way if size <= room else [*way, "and even then it does not fit: a smaller resolution or model"]
    return words(made, way)


def words(made: Any, way: list[str]) -> str:
    """A plan for the page, as Markdown."""
    from studio.plan_show import shortage, size
    from studio.rate import lasting

    if not made.fits:
        return f"**Does not fit.** {shortage(made, way)}"
    peak, disk = made.peak, sum(made.disk.values())
    memory = f"{size(peak.peak)} of {size(made.free)} memory on {made.device} (most in the phase {peak.name})"
    note = f" Note: {'; '.join(made.notes)}." if made.notes else ""
    how = made.speed if made.speed.startswith("measured") else "a rough guess"
    took = f"about {lasting(made.total)}, {made.step:.3g} s per step ({how})"
    if made.full:
        advice = "fewer steps, or fewer checkpoints and previews (save_every, keep_last, previews.every)"
        lack = f"{size(disk)} would be written, {size(made.room)} are free: {advice}"
        return f"**Does not fit on the disk.** {lack}. {took[0].upper()}{took[1:]}."
    return f"**Fits.** {memory} · {took} · {size(disk)} of disk.{note}"


def meanwhile(beside: Sequence[str]) -> str:
    """What other runs do to a plan."""
    if not beside:
        return ""
    more = f" and {len(beside) - 2} more" if len(beside) > 2 else ""
    return (
        f" Another run is at work or waits ({', '.join(beside[:2])}{more}): these figures are of a machine that is "
        "shared with it, and this run waits for its turn or takes longer than that."
    )


def serve() -> None:
    """Answers line by line until there are no more; whatever goes wrong is an answer too."""
    from studio.ui.words import shown

    out, sys.stdout = sys.stdout, sys.stderr  # libraries that print do not answer
    for line in sys.stdin:
        number, toml = json.loads(line)
        try:
            said = planned(toml)
        except Exception as error:  # the page says it, and the next config may do
            said = shown(error)
        out.write(json.dumps([number, said]) + "\n")
        out.flush()


if __name__ == "__main__":
    serve()
