"""One task of a comparison: a command in a process of its own, watched, started again when it fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import studio

Status = Literal["waiting", "running", "done", "failed", "stopped"]
LOOK = 0.2  # seconds between two looks at a process
GRACE = 120.0  # seconds that a process has to save its state and end
STOPPED, LATE = 130, 124  # exit codes
FINAL = (0, 2, 3, STOPPED)  # after these the same command would say the same: done, wrong words, wrong data
ENDED = (-signal.SIGTERM, -getattr(signal, "SIGKILL", 9))  # what a process that is asked to end may return too
SAID = "studio: error: "
Ask = Callable[[], int]  # what a task is asked while it runs: 1 to save its state and end, 2 to end at once


@dataclass(frozen=True)
class Task:
    """What is to be done: `studio WORDS`. name: of the cell; folder: of the comparison, which every node can write;
    module: whose main takes the words.

    retries: how often the same command is started again after a failure; training goes on from its last checkpoint.
    timeout: seconds of one attempt, 0 for no limit.
    """

    name: str
    words: tuple[str, ...]
    folder: Path
    retries: int = 1
    timeout: float = 0.0
    module: str = "studio"

    @property
    def said(self) -> Path:
        """Its events: what it writes to stdout."""
        return self.folder / "logs" / f"{self.name}.jsonl"

    @property
    def log(self) -> Path:
        """Its words on stderr, of all attempts."""
        return self.folder / "logs" / f"{self.name}.log"


@dataclass(frozen=True)
class Outcome:
    """How a task ended. reason: one line where it is not done; code: the exit code, negative for a signal; seconds:
    of all attempts together.
    """

    name: str
    status: Status
    reason: str = ""
    code: int = 0
    attempts: int = 0
    seconds: float = 0.0


def work(task: Task, ask: Ask, environment: Mapping[str, str] | None = None) -> Outcome:
    """Do a task, again where it fails; the last attempt's reason counts.

    environment: variables of the process beside this one's.
    """
    began, reason, code, attempt = time.monotonic(), "not begun", 130, 0
    while attempt <= task.retries and not ask():
        attempt += 1
        code, reason = once(task, ask, environment or {}, fresh=attempt == 1)
        if code in FINAL:
            break
    seconds = time.monotonic() - began
    if code == 0:
        return Outcome(task.name, "done", "", 0, attempt, seconds)
    if code == STOPPED or (ask() and code in ENDED):
        return Outcome(task.name, "stopped", reason if not attempt else "stopped", STOPPED, attempt, seconds)
    return Outcome(task.name, "failed", reason, code, attempt, seconds)


def once(task: Task, ask: Ask, environment: Mapping[str, str], fresh: bool) -> tuple[int, str]:
    """One attempt: its exit code, and in one line why it is not 0."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.said.open("wb" if fresh else "ab") as said, task.log.open("ab") as log:
        start = log.tell()
        command = [sys.executable, "-m", task.module, *task.words]
        # a session of its own: Ctrl-C reaches this process alone, which then asks the others
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=log,
            env={**os.environ, **found(), **environment}, start_new_session=True,
        )  # fmt: skip
        try:
            late = watch(child, ask, task.timeout)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
    with task.log.open("rb") as log:
        log.seek(start)
        words = log.read().decode("utf-8", "replace")
    code = int(child.returncode)
    return (LATE, f"took longer than {task.timeout:g} s") if late and code else (code, why(code, words))


def watch(child: subprocess.Popen[bytes], ask: Ask, timeout: float) -> bool:
    """Wait for a process; ask it to end when this task is asked to, or when its time is over: True."""
    began, ending, late = time.monotonic(), 0.0, False
    while child.poll() is None:
        now = time.monotonic()
        late = late or bool(timeout and now - began > timeout and not ask())
        if ask() > 1 or (ending and now - ending > GRACE):
            child.kill()
        elif (ask() or late) and not ending:
            ending = now
            child.terminate()  # `studio train` saves its state at the next step where it can
        with suppress(subprocess.TimeoutExpired):
            child.wait(LOOK)
    return late


def why(code: int, words: str) -> str:
    """What a process said last, and how it ended."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line.removeprefix(SAID) for line in lines if line.startswith(SAID)]
    last = errors[-1] if errors else lines[-1] if lines else "it said nothing"
    if code >= 0:
        return last if errors else f"exit code {code}: {last}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    shortage = "; the system kills when memory runs out" if -code == getattr(signal, "SIGKILL", 9) else ""
    return f"ended by {name}{shortage}" + (f" ({last})" if errors else "")


@dataclass
class Tail:
    """The whole lines that were added to a file since the last look; from the start where it was written anew."""

    path: Path
    at: int = 0

    def lines(self) -> Iterator[str]:
        """Those that are new."""
        try:
            with self.path.open("rb") as file:
                self.at = self.at if file.seek(0, 2) >= self.at else 0
                file.seek(self.at)
                new = file.read()
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self.at += len(whole)
        yield from whole.decode("utf-8", "replace").splitlines()


def found() -> dict[str, str]:
    """Variables with which a new process finds this very studio, where it is not installed."""
    root = Path(studio.__file__).parents[1]
    if root.name in ("site-packages", "dist-packages"):
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))}


def threads(jobs: int) -> dict[str, str]:
    """Variables that keep several processes from using every core each; what a person has set stays."""
    share = max(1, (os.cpu_count() or 1) // jobs)
    return {} if jobs == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(share)}


def devices(jobs: int, count: int) -> list[dict[str, str]]:
    """Per worker, which GPU it sees: its own where there are several; nothing is said where there is one, or none."""
    if count < 2:
        return [threads(jobs)] * jobs
    visible = re.split(r"\s*,\s*", os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).strip())
    return [{**threads(jobs), "CUDA_VISIBLE_DEVICES": visible[worker % len(visible)]} for worker in range(jobs)]
