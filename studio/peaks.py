"""The peak of memory in each phase of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from studio.memory import resident

HIGH_WATER = Path("/proc/self/clear_refs")  # "5" written here forgets the peak (Linux)
PAUSE = 0.02  # seconds between looks, where the system keeps no peak that can be reset


def forget() -> bool:
    """Forget the process's peak of resident memory; False where the system does not let us."""
    try:
        HIGH_WATER.write_text("5")
    except OSError:
        return False
    return True


def high_water() -> int:
    """Peak resident bytes since the last `forget` (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@dataclass
class Sampler:
    """Looks at the resident memory from a thread of its own, where no peak can be reset; 20 ms spikes are lost."""

    peak: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self.look, daemon=True, name="memory").start()

    def look(self) -> None:
        """Until stopped."""
        while not self.stopped.is_set():
            self.peak = max(self.peak, resident())
            time.sleep(PAUSE)


@dataclass
class Peaks:
    """The peak of each phase: `enter(phase)` closes the one before, `close()` the last.

    On a GPU bytes of tensors (torch's allocator), on a CPU resident bytes of the process. A phase entered again
    keeps its larger peak. told: called with (phase, bytes) when a phase ends higher than ever.
    """

    device: torch.device
    told: Callable[[str, int], None] = lambda phase, peak: None
    found: dict[str, int] = field(default_factory=dict)
    phase: str = ""
    sampler: Sampler | None = None

    def enter(self, phase: str) -> None:
        """A phase begins; nothing happens when it is the present one."""
        if phase == self.phase:
            return
        self.close()
        self.phase = phase
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif not forget():
            self.sampler = self.sampler or Sampler()
            if not self.sampler.peak:
                self.sampler.start()
            self.sampler.peak = resident()

    def now(self) -> int:
        """The present phase's peak so far."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return self.sampler.peak if self.sampler is not None else high_water()

    def close(self) -> None:
        """The present phase ends."""
        if not self.phase:
            return
        peak = self.now()
        phase, self.phase = self.phase, ""
        if peak > self.found.get(phase, 0):
            self.found[phase] = peak
            self.told(phase, peak)

    def end(self) -> None:
        """The run ends, and with it the looking."""
        self.close()
        if self.sampler is not None:
            self.sampler.stopped.set()
