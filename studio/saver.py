"""A run's checkpoints while it trains: written when there is room, read back, and thinned out."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from studio import checkpoints
from studio.journal import Journal
from studio.loop import Tick
from studio.pipelines.errors import DataError
from studio.store import Run
from studio.trainers.base import Settings


@dataclass
class Saver:
    """Saves ticks. about: what goes into every checkpoint's meta; saved: the last step that is safe on disk."""

    run: Run
    journal: Journal
    settings: Settings
    about: dict[str, Any]
    saved: int = 0
    when: float = field(default_factory=time.monotonic)

    def pass_by(self, tick: Tick, position: int) -> None:
        """Saves a tick on the way when it is due, by steps or by time.

        One that only the clock asked for goes when the next stands.
        """
        every, minutes = self.settings.save_every, self.settings.save_minutes
        regular = every > 0 and tick.step % every == 0
        late = minutes > 0 and time.monotonic() - self.when >= 60 * minutes
        if tick.safe and (regular or late):
            self.save(tick, position)
            if not regular and self.saved == tick.step:
                with suppress(OSError):  # without its mark it is one more to keep
                    checkpoints.mark(self.run.checkpoints / f"step-{tick.step:06d}", checkpoints.PASSING)

    def save(self, tick: Tick, position: int) -> None:
        """Everything that resuming needs, and then the deletion of what it makes superfluous.

        position: of the data stream. Raises DiskFull when waiting for room was in vain, Stopped when somebody
        asked to stop meanwhile.
        """
        if tick.step == self.saved:
            self.thin(tick.step)  # a crash may have come between a deletion's event and the deletion
            return
        if not self.run.config_file.exists():
            raise DataError(f"{self.run.folder} was removed or emptied while the run trained: it ends here, unsaved")
        state = tick.state()
        meta = {**state.meta, "position": position, **self.about}
        folder = self.journal.patiently(lambda: self.run.save_checkpoint(tick.step, state.tensors, meta))
        self.when = time.monotonic()  # also when it cannot be read back: no step after step is spent on a bad disk
        if reason := checkpoints.damage(folder):
            self.journal("warning", message=f"{folder} cannot be read back ({reason}): look after the disk")
            return
        self.saved = tick.step
        self.journal("checkpoint", path=self.name(folder))
        self.thin(tick.step)

    def thin(self, step: int) -> None:
        """Deletes older checkpoints that are not to be kept, each said first: what an event announced is never lost."""
        keep = self.settings.keep_last
        for path in checkpoints.superfluous(
            self.run.checkpoints, step, keep, self.settings.keep_best, self.settings.keep_steps
        ):
            passing = checkpoints.PASSING in checkpoints.marks(path)
            why = "a newer one stands" if passing else f"keep_last = {keep}"
            self.journal("deleted", path=self.name(path), message=f"{self.name(path)}, as {why}")
            try:
                checkpoints.remove(path)
            except OSError as error:
                self.journal("warning", message=f"{path} was not deleted: {error.strerror or error}")

    def name(self, folder: Any) -> str:
        """A checkpoint's path in the run's folder."""
        return str(folder.relative_to(self.run.folder))
