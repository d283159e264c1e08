"""Runs are folders: run.toml, env.json, events.jsonl, samples, checkpoints, adapter."""

from __future__ import annotations

import datetime
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from studio import checkpoints, events
from studio.basis import Basis, differences, fixed, numbers
from studio.checkpoints import Checkpoint, Tensors
from studio.disk import make, room
from studio.events import Event
from studio.pipelines.confine import permitted
from studio.pipelines.errors import UsageError
from studio.registry import nearest

if TYPE_CHECKING:
    from studio.config import RunConfig

State = Literal["new", "unfinished", "done"]
NAME = re.compile(r"[^\W_][\w.-]{0,99}")
MANY = 12  # changes that are shown


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config_file(self) -> Path:
        return self.folder / "run.toml"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def stop_file(self) -> Path:
        """Whoever makes this file asks the run to stop."""
        return self.folder / "stop"

    @property
    def sample_file(self) -> Path:
        """Whoever makes this file asks the run for previews at once; the run takes it away when they are drawn."""
        return self.folder / "sample-now"

    @property
    def samples(self) -> Path:
        """The folder of the pictures, made when it is asked for."""
        path = self.folder / "samples"
        path.mkdir(exist_ok=True)
        return path

    def config(self) -> RunConfig:
        """The complete config of the run, with the name and place it has now."""
        from studio.config import from_toml

        self.table()
        return from_toml(self.config_file).model_copy(update={"run": self.name, "runs": self.folder.parent})

    def table(self) -> dict[str, Any]:
        """What run.toml holds, unchecked. Raises UsageError when it is damaged."""
        from studio.toml import read

        try:
            return read(self.config_file)
        except UsageError as error:
            raise UsageError(f"{error}; mend it, or give another --run: all that is beside it is kept") from None

    def log(self, event: Event) -> None:
        """Adds one line to events.jsonl. Raises DiskFull."""
        with room(self.folder, "an event", "checkpoints are kept; free some space and run the same command again"):
            events.append(self.folder / "events.jsonl", event)

    def events(self, after: int = 0) -> Iterator[Event]:
        """The events from line `after` on."""
        return events.read(self.folder / "events.jsonl", after)

    def curve(self, name: str = "loss") -> dict[int, float]:
        """One number by training step; where a resumed run did a step again, the last one counts."""
        lines = (event for event in self.events() if event.phase == "train" and name in event.numbers)
        return dict(sorted((event.step, float(event.numbers[name])) for event in lines))

    def last(self, event: str) -> Event | None:
        """The last event of a name."""
        return next((found for found in reversed(list(self.events())) if found.event == event), None)

    def state(self, steps: int | None = None) -> State:
        """Whether the run is new, unfinished, or done: with at least `steps` (its config's when None), or by itself."""
        done = self.last("done")
        wanted = self.summary().get("steps", 0) if steps is None else steps
        if done is not None and (done.step >= wanted or done.get("ended")):
            return "done"
        begun = (self.folder / "events.jsonl").exists() or self.checkpoints.is_dir()
        return "unfinished" if begun else "new"

    def summary(self) -> dict[str, Any]:
        """trainer, model, seed and steps as run.toml has them: read without importing the trainer."""
        table = self.table()
        steps = table.get(table.get("trainer", ""), {}).get("steps", 0)
        return {key: table.get(key, "") for key in ("trainer", "model", "seed")} | {"steps": steps}

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensors], meta: Mapping[str, Any]) -> Path:
        """Writes checkpoints/step-000500: a safetensors file per group of tensors, and `meta` as JSON.

        Raises DiskFull; older checkpoints are kept.
        """
        older = list(checkpoints.steps(self.checkpoints).values())
        what = f"kept: {older[-1].name}" if older else "no checkpoint so far"
        advice = f"{what}; free some space and run the same command again"
        return checkpoints.save(self.checkpoints, step, tensors, meta, advice)

    def latest(self) -> Checkpoint | None:
        """The newest valid checkpoint; damaged ones are named in a warning and skipped."""
        found, damaged = checkpoints.newest(self.checkpoints)
        for reason in damaged:
            warnings.warn(reason, stacklevel=2)
        return found

    def basis(self) -> Basis | None:
        """What the last start trained with, or was told to go on with; None where env.json does not say."""
        try:
            return Basis.read(json.loads((self.folder / "env.json").read_text("utf-8"))["basis"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process may work in this folder. Raises UsageError when one does."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(f"the run '{self.name}' is being trained by another process; give another --run") from None
        try:
            yield
        finally:
            lock.release()

    def begun(self) -> bool:
        """Whether there is anything that another config would spoil: a step taken or a checkpoint."""
        return self.checkpoints.is_dir() or any(e.phase == "train" and e.numbers for e in self.events())

    def done_steps(self) -> int:
        """How many steps are saved."""
        done = self.last("done")
        whole = [n for n, path in checkpoints.steps(self.checkpoints).items() if (path / "manifest.json").is_file()]
        return max([*whole, done.step if done else 0, 0])

    def asks_to_stop(self) -> bool:
        """Whether somebody put a file called `stop` into the folder."""
        return self.stop_file.exists()

    def write(self, name: str, text: str) -> Path:
        """Writes a text file of the folder aside and renames it."""
        path, aside = self.folder / name, self.folder / f".{name}.writing"
        with room(self.folder, name, "what was there is kept"):
            checkpoints.sync(aside, text.encode())
            aside.replace(path)
            checkpoints.sync_folder(self.folder)
        return path


@dataclass(frozen=True)
class Store:
    """The folder of the runs."""

    folder: Path = Path("runs")

    def place(self, config: RunConfig) -> Run:
        """Where the run of a config lies, or will lie. Nothing is written; UsageError for a bad name."""
        return Run(self.folder.absolute() / self.name(config))

    def create(self, config: RunConfig, accept: bool = False, text: str = "") -> Run:
        """The run of a config: a new folder, or the one of that name if its config allows to go on.

        `steps` may grow, previews may change; with `accept`, anything that can: run.toml then says so, comments
        kept. text: the TOML that the config came from. Raises UsageError for a bad name, or with the differences when
        the folder belongs to another config.
        """
        from studio.config import as_toml, update_toml

        config = config.resolved(self.name(config), self.folder)
        run = Run(config.runs / config.run)
        if not run.config_file.exists():
            make(run.folder)
            run.write("run.toml", as_toml(config, text))
            return run
        refuse_another(run, config, accept)
        if run.config() != config:
            run.write("run.toml", update_toml(run.config_file.read_text("utf-8"), config))
        return run

    def open(self, name: str) -> Run:
        """The run of that name, or in that folder.

        Raises UsageError with the nearest name when there is none.
        """
        for folder in (self.folder / name, Path(name)):
            if (folder / "run.toml").is_file():
                return Run(permitted(folder.absolute(), "the run"))
        near = nearest(name, [run.name for run in self.list()])
        raise UsageError(f"there is no run '{name}' in {self.folder}{near}; `studio list runs` names all")

    def list(self) -> list[Run]:
        """All runs, newest first."""
        found = []
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):  # no run, or one that is being deleted
                    found.append((os.stat(f"{entry.path}/run.toml").st_mtime, Path(entry.path)))
        return [Run(path) for _, path in sorted(found, reverse=True)]

    def name(self, config: RunConfig) -> str:
        """The config's name, or date-subject-trainer: an unfinished run of the same config, else a free name.

        Raises UsageError for a name that is not a plain folder name.
        """
        if config.run:
            if not NAME.fullmatch(config.run):
                raise UsageError(f"run = '{config.run}': a name has letters, digits, '.', '_' and '-', nothing else")
            return config.run
        today = self.today(config)
        tail = today[len("2000-01-01-") :]
        mine = re.compile(rf"\d{{4}}-\d\d-\d\d-{re.escape(tail)}(-\d+)?")
        for run in self.list():
            if mine.fullmatch(run.name) and same(run, config):
                unfinished = run.state(config.settings.steps) != "done"
                if unfinished or run.name.startswith(today):
                    return run.name
        return self.free(today)

    def today(self, config: RunConfig) -> str:
        """date-subject-trainer."""
        return f"{datetime.date.today():%Y-%m-%d}-{config.subject()}-{config.trainer}"

    def free(self, name: str) -> str:
        """`name`, or `name-2`, `name-3`, ... if it is taken."""
        number = 1
        while (self.folder / (free := name if number == 1 else f"{name}-{number}")).exists():
            number += 1
        return free


def same(run: Run, config: RunConfig) -> bool:
    """Whether a run's folder belongs to a config; more steps may be asked for."""
    try:
        old, new = numbers(run.config()), numbers(config.resolved(run.name, run.folder.parent))
    except UsageError:
        return False
    return not differences(old, new)


def refuse_another(run: Run, config: RunConfig, accept: bool = False) -> None:
    """Raises UsageError unless a run can go on with a config: with its own, or with `accept` one like it."""
    from studio import ladder  # what an earlier start had to change for want of memory is no other config

    config = ladder.remembered(run, config)
    done, steps = run.done_steps(), config.settings.steps
    old, new = (numbers(run.config()), numbers(config)) if run.begun() else ({}, {})
    if steps < done:
        also = differences({**old, "settings.steps": steps}, new)
        said = f"; also made otherwise: {listed(also)}" if also else ""
        raise UsageError(
            f"steps = {steps}, but the run '{run.name}' has done {done}: steps only grow{said}; "
            f"give at least {done}, another --run, or --fresh"
        )
    refuse(run, differences(old, new), fixed(old, new) if done else "", accept)


def refuse(run: Run, changes: Sequence[str], never: str, accept: bool) -> None:
    """Raises UsageError with the changes, unless there are none, or `accept` and none is for `never`."""
    if not changes or (accept and not never):
        return
    ways = f"this cannot be changed: {never}" if never else "--accept-change goes on with it"
    said = f"the run '{run.name}' was made otherwise ({listed(changes)}); {ways}"
    raise UsageError(f"{said}; or give another --run, or --fresh")


def listed(changes: Sequence[str]) -> str:
    """The changes, up to many."""
    return "; ".join(changes[:MANY]) + (f" and {len(changes) - MANY} more" if len(changes) > MANY else "")
