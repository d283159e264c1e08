"""One run that is disturbed and started again with the same command, held against the undisturbed one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from studio.bench_faults import Fault, Faults
from studio.events import Event
from studio.pipelines.errors import EXITS
from studio.store import Run

RUN = Path("runs/one")
COMMAND = (
    "train dreambooth --model toy --run one --runs runs --steps 6 --save-every 2 --preview-every 3 "
    "--previews.steps 2 --ema 0.9 --schedule cosine --warmup 2 --lr 0.01 --data.flip --data.caption-dropout 0.3 "
    "--precision no --keep-last 2 --disk-wait 0 --json"
)
NAMES = ("out", "err", "trace")  # what a start leaves: events, words, file operations
LIMIT = 60.0  # seconds after which a start counts as hung


@dataclass(frozen=True)
class Attempt:
    """One start of the command: its exit code (negative: the signal), events, words on stderr, file operations."""

    code: int
    said: list[Event]
    words: str
    operations: list[str]
    seconds: float

    @property
    def phase(self) -> str:
        """Where it was at its end."""
        return self.said[-1].phase if self.said else "start"

    @property
    def last(self) -> str:
        """The last file operation, names without their numbers."""
        return label(self.operations[-1]) if self.operations else "none yet"


def label(operation: str) -> str:
    """An operation without what differs from one time to the next."""
    place = re.sub(rf" {RUN.name}(?=/|$)", " run", operation)
    return re.sub(r"\d+", "N", re.sub(r"(?<= \.cache/).*", "*", place))


def start(folder: Path, faults: Mapping[int, Fault], after: float | None = None) -> Attempt:
    """The command in a forked process that works in `folder`; SIGKILL after so many seconds."""
    began = time.monotonic()
    for name in NAMES:  # here: the child may be killed before its first line
        (folder / name).write_text("")
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        begin(folder, faults)
    status = None
    while status is None and time.monotonic() - began < (LIMIT if after is None else after):
        done, found = os.waitpid(child, os.WNOHANG)
        status = found if done else None
        time.sleep(0.001)
    struck = status is None
    if status is None:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    said, words, operations = ((folder / name).read_text("utf-8", "replace") for name in NAMES)
    if struck and after is None:
        words += f"\nhung: killed after {LIMIT:g} s"
    code = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    return Attempt(code, list(events(said)), words, operations.splitlines(), seconds)


def begin(folder: Path, faults: Mapping[int, Fault]) -> NoReturn:
    """The child: its own streams, its own folder, the command's exit code."""
    from studio import cli

    code = 1
    try:
        os.chdir(folder)
        said, words, trace = (os.open(name, os.O_WRONLY | os.O_APPEND) for name in NAMES)
        os.dup2(said, 1)
        os.dup2(words, 2)
        Faults(os.path.realpath("runs"), trace, faults).install()
        code = cli.run([*COMMAND.split(), "--data", str(folder.parent / "pictures")])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def events(text: str) -> Iterator[Event]:
    """The whole lines of `--json`."""
    for line in text.splitlines():
        with suppress(ValueError):
            yield Event.read(line)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensors(path: Path) -> str:
    """sha256 of a safetensors file; the order of its header's entries, random in Rust, does not count."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True)
    return hashlib.sha256(header.encode() + content[start:]).hexdigest()


def outcome(run: Path) -> dict[str, str]:
    """What must be equal to the bit: adapter files, newest checkpoint, pictures, numbers, and which files there are.

    Older checkpoints may stay where their deletion was disturbed, and log.txt holds what was injected.
    """
    found = {}
    newest = max((run / "checkpoints").glob("step-*"), default=run)
    for path in sorted(p for p in run.rglob("*") if p.is_file() and p.name != "log.txt"):
        if any(p.name.startswith(("step-", ".deleting-")) and p != newest for p in path.parents):
            continue
        name = path.relative_to(run).as_posix()
        found[f"there is {name}"] = "yes"
        if path.suffix == ".safetensors":
            found[name] = tensors(path)
        elif path.suffix == ".png" or path.name == "meta.json":
            found[name] = sha256(path)
    log = Run(run)
    names = {name for event in log.events() if event.phase == "train" for name in event.numbers}
    return found | {f"numbers {name}": json.dumps(log.curve(name)) for name in sorted(names)}


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, by its own manifest; '' for a valid one."""
    try:
        sums = json.loads((checkpoint / "manifest.json").read_text("utf-8"))["sha256"]
        wrong = [name for name, sha in sums.items() if sha256(checkpoint / name) != sha]
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{wrong} are not what was written" if wrong else ""


def unflushed(operations: list[str]) -> list[str]:
    """What of a checkpoint a power cut could take although the next event was written: not SIGKILL's to show."""
    waiting: set[str] = set()
    found: list[str] = []
    for operation in operations:
        kind, path = operation.split(" ", 1)
        if kind == "write" and path.endswith("events.jsonl"):
            found += sorted(waiting)
            waiting.clear()
        elif kind == "fsync":
            waiting.discard(path)
        elif kind in ("write", "rename") and "/checkpoints/" in path and "deleting" not in path:
            waiting.add(path if kind == "write" else os.path.dirname(path))
    return found


@dataclass
class Record:
    """What was done to how many runs, and what was found wrong (nothing, one hopes)."""

    disturbed: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    killed: int = 0
    restarts: int = 0
    announced: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Trial:
    """One run that is disturbed, started again, and held against the undisturbed one."""

    folder: Path
    record: Record
    expected: Mapping[str, str]
    promised: dict[str, int] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    told: list[Event] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.record.runs += 1

    def disturb(self, faults: Mapping[int, Fault], after: float | None = None) -> Attempt:
        """Start with these faults or this kill; look at what is left."""
        how = "+".join(f"{fault} at operation {number}" for number, fault in faults.items())
        self.tried.append(how or (f"kill after {after:.3f} s" if after else "restart"))
        attempt = start(self.folder, faults, after)
        self.record.restarts += len(self.tried) > 1
        newest = max(self.promised.values(), default=0)
        for event in attempt.said:
            if event.phase == "train" and event.numbers and event.step <= newest:
                self.complain(f"step {event.step} was trained again, after the checkpoint of step {newest}")
                break
        self.keeps(attempt)
        self.honest(attempt, set(faults.values()))
        return attempt

    def keeps(self, attempt: Attempt) -> None:
        """Every announced checkpoint must be there, unless its deletion was announced too."""
        self.told += attempt.said
        self.promised, announced = {}, len(self.announced)
        for event in sorted([*Run(self.folder / RUN).events(), *self.told], key=lambda event: event.time):
            if event.event == "checkpoint":
                self.promised[event["path"]] = event.step
                self.announced.add(event["path"])
            elif event.event == "deleted":
                self.promised.pop(event["path"], None)
        self.record.announced += len(self.announced) - announced
        for path in self.promised:
            place = self.folder / RUN / path
            aside = place.with_name(f".old-{place.name}")  # between two renames: the next start puts it back
            if (reason := damage(place)) and damage(aside):
                self.complain(f"announced, then lost: {path} ({reason})")

    def honest(self, attempt: Attempt, faults: set[Fault]) -> None:
        """Exit code and words must say what happened."""
        lines = attempt.words.strip().splitlines()
        errors = [line for line in lines if line.startswith("studio: error:")]
        if "Traceback" in attempt.words or lines[-1:] and lines[-1].startswith("hung"):
            self.complain(f"said: {attempt.words.strip()[-300:]}")
        elif attempt.code == 0:
            self.same()
        elif attempt.code == -signal.SIGKILL or attempt.code == 130 and "term" in faults:
            pass
        elif not faults & {"full", "broken"} or attempt.code not in EXITS or len(errors) != 1:
            self.complain(f"exit code {attempt.code}, {errors or attempt.words[-300:]}")
        elif "full" in faults and attempt.code != 4:
            self.complain(f"a full disk ended with exit code {attempt.code}: {errors[0]}")

    def same(self) -> None:
        """A run that says it is done must have the bits of the undisturbed one."""
        found = outcome(self.folder / RUN)
        differ = [name for name in {**self.expected, **found} if self.expected.get(name) != found.get(name)]
        if self.expected and differ:
            self.complain(f"other than the undisturbed run: {', '.join(sorted(differ)[:8])}")

    def finish(self) -> None:
        """The same command until it is done; the folder stays only when something was wrong."""
        if self.disturb({}).code != 0:
            self.complain("the last, undisturbed start did not finish")
        if not any(line.startswith(f"{self.folder.name}:") for line in self.record.wrong):
            shutil.rmtree(self.folder)

    def complain(self, what: str) -> None:
        self.record.wrong.append(f"{self.folder.name}: {' | '.join(self.tried)}: {what}")

    def count(self, attempt: Attempt, how: str) -> None:
        """Into the histograms."""
        self.record.disturbed[how] += 1
        self.record.killed += attempt.code == -signal.SIGKILL
        self.record.phases[attempt.phase] += 1
        self.record.operations[attempt.last] += 1
