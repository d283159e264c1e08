"""Runs are folders: run.toml, env.json, events.jsonl, samples, checkpoints, adapter."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from studio import checkpoints, events
from studio.checkpoints import Checkpoint, Tensors, room
from studio.events import Event
from studio.pipelines.errors import UsageError
from studio.registry import nearest

if TYPE_CHECKING:
    from studio.config import RunConfig

State = Literal["new", "unfinished", "done"]
NAME = re.compile(r"[^\W_][\w.-]{0,99}")
# what may differ between two starts of a run: where it lies, and settings that leave the numbers alone
FREE = re.compile(r"(run|runs|settings\.(save_every|previews(\..*)?))$")


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
    def samples(self) -> Path:
        """The folder of the pictures, made when it is asked for."""
        path = self.folder / "samples"
        path.mkdir(exist_ok=True)
        return path

    def config(self) -> RunConfig:
        """The complete config of the run, with the name and place it has now."""
        from studio.config import from_toml

        return from_toml(self.config_file).model_copy(update={"run": self.name, "runs": self.folder.parent})

    def log(self, event: Event) -> None:
        """Adds one line to events.jsonl.

        Raises MemoryShortage when the disk is full.
        """
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
        """Whether the run is new, unfinished, or done with at least `steps` (its config's when None)."""
        done = self.last("done")
        wanted = self.summary().get("steps", 0) if steps is None else steps
        if done is not None and done.step >= wanted:
            return "done"
        begun = (self.folder / "events.jsonl").exists() or (self.folder / "checkpoints").is_dir()
        return "unfinished" if begun else "new"

    def summary(self) -> dict[str, Any]:
        """trainer, model, seed and steps as run.toml has them: read without importing the trainer."""
        import tomlkit

        table = tomlkit.parse(self.config_file.read_text("utf-8")).unwrap()
        steps = table.get(table.get("trainer", ""), {}).get("steps", 0)
        return {key: table.get(key, "") for key in ("trainer", "model", "seed")} | {"steps": steps}

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensors], meta: Mapping[str, Any]) -> Path:
        """Writes checkpoints/step-000500: a safetensors file per group of tensors, and `meta` as JSON.

        Raises MemoryShortage when the disk is full; older checkpoints are kept.
        """
        folder = self.folder / "checkpoints"
        kept = sorted(path.name for path in folder.glob("step-[0-9]*"))
        what = f"kept: {kept[-1]}" if kept else "no checkpoint so far"
        advice = f"{what}; free some space and run the same command again"
        return checkpoints.save(folder, step, tensors, meta, advice)

    def latest(self) -> Checkpoint | None:
        """The newest valid checkpoint; damaged ones are named in a warning and skipped."""
        return checkpoints.latest(self.folder / "checkpoints")

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
        return (self.folder / "checkpoints").is_dir() or any(e.phase == "train" for e in self.events())

    def asks_to_stop(self) -> bool:
        """Whether somebody put a file called `stop` into the folder."""
        return (self.folder / "stop").exists()

    def write(self, name: str, text: str) -> Path:
        """Writes a text file of the folder aside and renames it."""
        path, aside = self.folder / name, self.folder / f".{name}.writing"
        with room(self.folder, name, "what was there is kept"):
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
        return path


@dataclass(frozen=True)
class Store:
    """The folder of the runs."""

    folder: Path = Path("runs")

    def create(self, config: RunConfig) -> Run:
        """The run of a config: a new folder, or the one of that name if its config allows to go on.

        `steps` may grow, previews may change: run.toml then says so, comments kept. A `stop` file is removed.
        Raises UsageError for a bad name, or with the differences when the folder belongs to another config.
        """
        from studio.config import to_toml, update_toml

        config = config.resolved(self.name(config), self.folder)
        run = Run(config.runs / config.run)
        if not run.config_file.exists():
            with room(config.runs, "the run", "nothing was written"):
                run.folder.mkdir(parents=True, exist_ok=True)
            run.write("run.toml", to_toml(config))
            return run
        if run.begun():
            refuse_another(run, config)
        (run.folder / "stop").unlink(missing_ok=True)
        if run.config() != config:
            run.write("run.toml", update_toml(run.config_file.read_text("utf-8"), config))
        return run

    def open(self, name: str) -> Run:
        """The run of that name, or in that folder.

        Raises UsageError with the nearest name when there is none.
        """
        for folder in (self.folder / name, Path(name)):
            if (folder / "run.toml").is_file():
                return Run(folder.absolute())
        known = [run.name for run in self.list()]
        raise UsageError(
            f"there is no run '{name}' in {self.folder}{nearest(name, known)}; `studio list runs` names all"
        )

    def list(self) -> list[Run]:
        """All runs, newest first."""
        found = [path.parent for path in self.folder.glob("*/run.toml")]
        return [Run(path) for path in sorted(found, key=lambda path: (path.stat().st_mtime, path.name), reverse=True)]

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
    """Whether a run's folder would be reopened by a config."""
    try:
        refuse_another(run, config.resolved(run.name, run.folder.parent))
    except UsageError:
        return False
    return True


def refuse_another(run: Run, config: RunConfig) -> None:
    """Raises UsageError with the differences, unless `config` is the run's (steps may have grown)."""
    from studio.config import flat

    old, new = flat(run.config()), flat(config)
    grown = old.get("settings.steps", 0) <= new.get("settings.steps", 0)
    differences = [
        f"{key.removeprefix('settings.')}: {old.get(key)} -> {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not FREE.match(key) and not (key == "settings.steps" and grown)
    ]
    if differences:
        shown = ", ".join(differences[:6]) + (f" and {len(differences) - 6} more" if len(differences) > 6 else "")
        raise UsageError(f"the run '{run.name}' exists with another config ({shown}); give another --run, or --fresh")
