"""Training killed anywhere and started again with the same command: are the bits those of the undisturbed run?"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from rich.console import Console

import studio
from studio.bench_faults import GROWING, Fault
from studio.bench_trial import COMMAND, RUN, Record, Trial, label, outcome, unflushed
from studio.pipelines.errors import StudioError

HOW = {
    "kill": "SIGKILL before an operation", "torn": "SIGKILL inside a write", "term": "SIGTERM before an operation",
    "full": "disk full from an operation on (ENOSPC)", "broken": "an operation fails (EIO)",
}  # fmt: skip
KILLS_PER_RUN = 10
RANDOM = "SIGKILL at a random moment"


@dataclass
class Torment:
    """All trials, in one folder, by forks of one process that has everything imported."""

    folder: Path
    random: random.Random
    record: Record = field(default_factory=Record)
    expected: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    operations: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Warm up, and take down what undisturbed runs leave behind."""
        pictures(self.folder / "pictures")
        warm(self.folder / "warm")
        for name in ("undisturbed", "undisturbed-again"):
            trial = self.trial(name)
            attempt = trial.disturb({})
            if attempt.code or self.record.wrong:
                raise StudioError(f"an undisturbed run failed: {attempt.code} {self.record.wrong} {attempt.words}")
            self.expected = outcome(trial.folder / RUN)
            self.seconds, self.operations = attempt.seconds, attempt.operations
        if loose := unflushed(self.operations):
            trial.complain(f"not flushed when the next event was written: {loose}")

    def trial(self, name: str) -> Trial:
        return Trial(self.folder / name, self.record, self.expected)

    def kills(self, wanted: int) -> None:
        """So many kills at random moments; a run gets several."""
        while self.record.disturbed[RANDOM] < wanted:
            trial = self.trial(f"kills-{self.record.runs}")
            for _ in range(min(KILLS_PER_RUN, wanted - self.record.disturbed[RANDOM])):
                attempt = trial.disturb({}, after=self.random.uniform(0, self.seconds))
                if attempt.code == 0:
                    break
                trial.count(attempt, RANDOM)
            trial.finish()

    def faults(self, wanted: int | None) -> None:
        """A run for each fault: so many, or all; no kind of operation twice before every kind had its turn."""
        plan = list(self.plan())
        self.random.shuffle(plan)
        turns: Counter[str] = Counter()
        ranked = []
        for name, faults in plan:
            turns[name] += 1
            ranked.append((turns[name], faults))
        for _, faults in sorted(ranked, key=lambda one: one[0])[:wanted]:
            trial = self.trial(f"fault-{self.record.runs}")
            trial.count(trial.disturb(faults), " then ".join(HOW[fault] for fault in faults.values()))
            trial.finish()

    def plan(self) -> Iterator[tuple[str, dict[int, Fault]]]:
        """Every fault at every operation of the undisturbed run, and pairs of a stop and a kill."""
        for number, operation in enumerate(self.operations, 1):
            kind = operation.split()[0]
            fitting: list[Fault] = ["kill", "term", "broken"]
            fitting += ["torn"] if kind == "write" else []
            fitting += ["full"] if kind in GROWING else []
            for fault in fitting:
                yield f"{fault} {label(operation)}", {number: fault}
            later = self.random.randint(number + 1, number + 40)
            yield f"stop and kill {label(operation)}", {number: "term", later: "kill"}


def pictures(folder: Path) -> None:
    """Three small pictures of noise."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def warm(folder: Path) -> None:
    """One run in this process, so that everything is imported before it forks."""
    import torch

    from studio import cli

    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the promise to the bit is a CPU's, and a GPU's context does not fork
    os.environ["GIT_OPTIONAL_LOCKS"] = "0"
    torch.set_num_threads(1)  # no thread must be lost in a fork
    folder.mkdir(parents=True)
    before, words = Path.cwd(), io.StringIO()
    # its rehearsal starts autograd's threads, which a fork would lose; the forks make their own plans
    unplanned = mock.patch("studio.plan.of", side_effect=RuntimeError("not in the process that forks"))
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(words), unplanned:
            code = cli.run([*COMMAND.split(), "--data", str(folder.parent / "pictures")])
    finally:
        os.chdir(before)
    if code:
        raise StudioError(f"the undisturbed run failed: {words.getvalue().strip()}")


def fresh(work: Torment) -> None:
    """A fork is killed half-way and an interpreter of its own goes on: forks share the seed of Python's hashes."""
    trial = work.trial("fresh-interpreter")
    trial.disturb({len(work.operations) // 2: "kill"})
    environment = {
        **os.environ, "PYTHONPATH": str(Path(studio.__file__).resolve().parents[1]), "PYTHONHASHSEED": "random",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "studio", *COMMAND.split(), "--data", str(work.folder / "pictures")]
    done = subprocess.run(command, cwd=trial.folder, env=environment, capture_output=True, text=True, check=False)
    trial.tried.append("a fresh interpreter")
    if done.returncode:
        trial.complain(done.stderr[-300:])
    else:
        trial.same()


def torment(kills: int, faults: int | None, seed: int, folder: Path) -> Record:
    """So many kills at random moments and so many faults (None: every one), in `folder`; only what failed stays."""
    began = time.monotonic()
    work = Torment(folder.resolve(), random.Random(seed))
    work.begin()
    fresh(work)
    work.kills(kills)
    work.faults(faults)
    work.record.seconds = time.monotonic() - began
    return work.record


def table(head: str, rows: Mapping[str, int]) -> str:
    """A Markdown table of counts, the largest first."""
    ranked = sorted(rows.items(), key=lambda row: (-row[1], row[0]))
    return "\n".join([f"| {head} | count |", "|---|--:|", *(f"| {name} | {count} |" for name, count in ranked)])


def words(record: Record, command: str) -> str:
    """The record as a page."""
    cpu = f"{os.cpu_count()} cores ({platform.machine()}), one thread, {platform.system()}"
    done = "equal in every run" if not record.wrong else f"NOT as they should be: {len(record.wrong)} findings"
    return f"""# Killed anywhere

`{command}`, {time.strftime("%Y-%m-%d")}, {cpu}, Python {platform.python_version()}, {record.seconds:.0f} s.

Each run is `studio {COMMAND} --data FOLDER`,
disturbed and then started again with the same words
until it is done. Starts are forks of one process that has everything imported: what is killed is the whole command.

| figure | value |
|---|--:|
| runs | {record.runs} |
| disturbances | {record.disturbed.total()} |
| of them SIGKILL | {record.killed} |
| restarts | {record.restarts} |
| checkpoints announced | {record.announced} |
| checkpoints announced and then lost | {sum("then lost" in line for line in record.wrong)} |
| steps trained again although a checkpoint of them was announced | {sum("again" in line for line in record.wrong)} |
| final bits against the undisturbed run | {done} |

Final bits: tensors of the exported files, the newest checkpoints with optimizer, schedule, average and random states,
every preview PNG, every number of every step, and which files there are. A fault that is no kill must also end
with one line and the documented exit code.

{table("disturbance", record.disturbed)}

{table("phase it hit", record.phases)}

{table("last file operation begun", record.operations)}
"""


def run(kills: int, faults: int | None, seed: int, out: Path, console: Console) -> None:
    """Disturb runs, and write kills.md into `out`. Raises StudioError when anything was not as it should be."""
    folder = Path(tempfile.mkdtemp(prefix="studio-kills-"))
    record = torment(kills, faults, seed, folder / "work")
    command = f"python -m studio.bench kills --kills {kills}" + (f" --faults {faults}" if faults is not None else "")
    out.mkdir(parents=True, exist_ok=True)
    (out / "kills.md").write_text(words(record, command), encoding="utf-8")
    console.print(f"{record.disturbed.total()} disturbances of {record.runs} runs, {len(record.wrong)} findings: {out}")
    if record.wrong:
        raise StudioError(f"{len(record.wrong)} findings, the first: {record.wrong[0]}; the runs are in {folder}")
    shutil.rmtree(folder)
