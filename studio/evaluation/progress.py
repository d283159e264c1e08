"""The progress of an evaluation: counted pictures and scorers, with their speed and the time that is left."""

from __future__ import annotations

from typing import TextIO

from studio.events import Event
from studio.progress import Kind, Progress, bars, words
from studio.rate import Rate

BURST = 0.2  # of the longest wait: pictures of one batch come sooner after each other


class Pace(Rate):
    """A rate over the last minute, or over the last batch where one takes longer."""

    def add(self, event: Event) -> None:
        """Takes the end of a batch into account."""
        while len(self.marks) > 1 and event.time - self.marks[1][0] > 60:
            self.marks.popleft()
        self.marks.append((event.time, event.step))


class Counting(Progress):
    """As a run's display; every phase is counted."""

    def __init__(self, kind: Kind = "auto", out: TextIO | None = None) -> None:
        super().__init__(0, kind, out)
        self.label = ""
        self.last = Event("")
        self.longest = 0.0

    def __call__(self, event: Event) -> None:
        if event.event == "progress":
            if (label := f"{event.phase} {self.goal(event)}") != self.label or not self.done(event):
                self.label, self.rate, self.longest = label, Pace(self.goal(event)), 0.0
                self.last = Event(event.phase, self.done(event), time=event.time)
            self.mark(Event(event.phase, self.done(event), time=event.time))
        if event.event == "note" and self.show != self.json:  # the command says notes at the end, on stderr
            return
        super().__call__(event)

    def mark(self, event: Event) -> None:
        """Takes the end of a batch into account once the next one is there: its first picture came late, the others
        at once, and neither tells the speed.
        """
        if (wait := event.time - self.last.time) > BURST * self.longest:
            self.rate.add(self.last)
            self.longest = max(self.longest, wait)
        self.last = event

    def live(self, event: Event) -> None:
        """A bar per phase; named events scroll above it."""
        if event.event != "progress":
            super().live(event)
            return
        if self.bars is None:
            self.bars = bars(self.out)
            self.bars.start()
        done, total, left = self.done(event), self.goal(event), self.rate.words(self.done(event))
        if event.phase != self.phase or self.bar is None:
            self.bar = self.bars.add_task(event.phase, total=total, words="")
        self.bars.update(self.bar, completed=done, total=total, words=left)

    def count(self, event: Event) -> str:
        """`120/500  2.1 it/s  0:12 left`."""
        if event.event != "progress":
            return words(event)
        return f"{self.done(event)}/{self.goal(event)}  {self.rate.words(self.done(event))}".strip()
