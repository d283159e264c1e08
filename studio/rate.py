"""How fast a run goes, how its loss goes, what memory it takes."""

from __future__ import annotations

import sys
from collections import deque

from studio.events import Event


class Rate:
    """Steps per second over the last minute, the smoothed loss (or reward), and the time that is left."""

    def __init__(self, total: int, smoothing: float = 0.95) -> None:
        self.total = total
        self.smoothing = smoothing
        self.name, self.loss = "loss", 0.0
        self.seen = 0
        self.marks: deque[tuple[float, int]] = deque(maxlen=600)

    def add(self, event: Event) -> None:
        """Takes a step's event into account."""
        while self.marks and event.time - self.marks[0][0] > 60:
            self.marks.popleft()
        self.marks.append((event.time, event.step))
        self.name = "reward" if "reward" in event.numbers else "loss"
        if self.name in event.numbers:
            self.seen += 1
            self.loss = self.smoothing * self.loss + (1 - self.smoothing) * float(event.numbers[self.name])

    @property
    def mean(self) -> float:
        """The exponential moving average of the loss, its start corrected (Adam's bias correction)."""
        return self.loss / (1 - self.smoothing**self.seen) if self.seen else 0.0

    @property
    def speed(self) -> float:
        """Steps per second; 0 before there are two steps."""
        if len(self.marks) < 2:
            return 0.0
        (start, first), (end, last) = self.marks[0], self.marks[-1]
        return (last - first) / (end - start) if end > start else 0.0

    def words(self, step: int) -> str:
        """`2.1 it/s  loss 0.1234  0:12 left  1.2 GB`."""
        parts = [f"{self.speed:.3g} it/s"] if self.speed else []
        parts += [f"{self.name} {self.mean:.4f}"] if self.seen else []
        parts += [f"{clock((self.total - step) / self.speed)} left"] if self.speed and self.total > step else []
        return "  ".join([*parts, memory()])


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def lasting(seconds: float) -> str:
    """`45 s`, `8 min 1 s`, `2 h 5 min` or `12 days`."""
    whole = int(seconds + 0.5)
    for unit, name, least, rest in ((86400, "days", 2 * 86400, ""), (3600, "h", 3600, "min"), (60, "min", 90, "s")):
        if whole >= least:
            more = whole % unit // (60 if rest == "min" else 1)
            return f"{whole // unit:,} {name}" + (f" {more} {rest}" if rest and more else "")
    return f"{whole} s"


def memory() -> str:
    """The peak memory so far: the accelerator's where one is used, else the process's."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GB"
    return f"{resident() / 2**30:.1f} GB"


def resident() -> int:
    """Peak resident bytes of this process; the present ones where the system does not keep a peak."""
    try:
        import resource
    except ImportError:
        import psutil

        return psutil.Process().memory_info().rss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
