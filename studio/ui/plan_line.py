"""What a run will take, said beside the start button: planned in a process of its own, which stays for the next time.

`python -m studio.ui.plan_line` reads configs as TOML, one JSON string a line, and answers each with one JSON line.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.config import RunConfig

PATIENCE = 90.0  # seconds for one answer; the first has libraries to load
KEPT = 64  # answers
LATER = "memory and time are not planned yet: the machine is busy; change a setting to ask again"


class Planner:
    """Plans configs one after another; what was asked before is answered at once. Safe with many threads."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.known: dict[str, str] = {}
        self.lock = threading.Lock()
        self.worker: Worker | None = None

    def __call__(self, config: RunConfig) -> str:
        """The plan in one line, or why there is none, as a sentence."""
        key = text(config)
        with self.lock:
            if key not in self.known:
                said = self.ask(key)
                if said is None:
                    return LATER
                self.known[key] = said
                self.known = dict(list(self.known.items())[-KEPT:])
            return self.known[key]

    def ask(self, key: str) -> str | None:
        """The worker's answer; None when it has none in time, or is gone: another one is started for the next."""
        if self.worker is not None and not self.worker.alive:
            self.close()
        self.worker = self.worker or Worker()
        found = self.worker.answer(key, self.patience)
        if found is None:
            self.close()
        return found

    def close(self) -> None:
        """Ends the worker."""
        if self.worker is not None:
            self.worker.end()
            self.worker = None


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
        pipe = self.process.stdin
        if pipe is None:
            return None
        try:
            pipe.write(json.dumps(key) + "\n")
            pipe.flush()
            line = self.lines.get(timeout=patience)
            return str(json.loads(line)) if line else None
        except (OSError, ValueError, queue.Empty):
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
    from studio.rate import clock

    if not made.fits:
        return f"**Does not fit.** {shortage(made, way)}"
    peak, disk = made.peak, sum(made.disk.values())
    memory = f"{size(peak.peak)} of {size(made.free)} memory on {made.device} (most in the phase {peak.name})"
    note = f" Note: {'; '.join(made.notes)}." if made.notes else ""
    return f"**Fits.** {memory} · about {clock(made.total)}, {made.step:.3g} s per step · {size(disk)} of disk.{note}"


def serve() -> None:
    """Answers line by line until there are no more; whatever goes wrong is an answer too."""
    from studio.ui.words import shown

    out, sys.stdout = sys.stdout, sys.stderr  # libraries that print do not answer
    for line in sys.stdin:
        try:
            said = planned(json.loads(line))
        except Exception as error:  # the page says it, and the next config may do
            said = shown(error)
        out.write(json.dumps(said) + "\n")
        out.flush()


if __name__ == "__main__":
    serve()
