"""What a visitor of the page does and sees, for tests of whole journeys: it waits for what must come, not for time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from studio.ui.jobs import Queue

LONG = 240_000  # milliseconds in which everything has to come
FOX = Path(__file__).resolve().parents[2] / "assets" / "subjects" / "fox" / "train"
PICTURES = [FOX / f"{number:02}.png" for number in range(1, 5)]


def until(true: Callable[[], Any], what: str, seconds: float = LONG / 1000) -> Any:
    """What `true` says as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"it never came true that {what}"
        time.sleep(0.02)
    return found


class Visitor:
    """One browser page. faults: what its scripts said that went wrong."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.faults: list[str] = []
        page.set_default_timeout(LONG)
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def open(self, tab: str) -> None:
        """The page, opened at a tab."""
        self.page.goto(f"{self.address}?tab={tab}")
        self.at(f"#tab-{tab}").wait_for()
        if tab == "train":
            self.at("#setting-steps").wait_for()

    def at(self, selector: str) -> Any:
        """What a selector finds, where it is seen."""
        return self.page.locator(f"{selector}:visible").first

    def fill(self, selector: str, value: object) -> None:
        """Types into a field and leaves it."""
        field = self.at(f"{selector} :is(input, textarea)")
        field.fill(str(value))
        field.press("Tab")

    def choose(self, selector: str, value: str) -> None:
        """Types a value into a list and takes it; faster than the list is filtered, so see that it was taken."""
        field = self.at(f"{selector} input")
        field.fill(value)
        field.press("Enter")
        field.press("Tab")

    def pick(self, selector: str, value: str) -> None:
        """Takes what begins with a value out of a list as it drops down."""
        self.at(f"{selector} input").click()
        self.page.locator(f"[role=option][aria-label^='{value}']:visible").first.click()
        self.page.keyboard.press("Tab")

    def settings(self, **values: object) -> None:
        """Settings of the form by their flags; those that are not on it are searched for."""
        for name, value in values.items():
            field = f"#setting-{name.replace('__', '-').replace('_', '-')}"
            hidden = not self.page.locator(field).is_visible()
            if hidden:
                self.at("#train-search :is(input, textarea)").fill(f"--{name.replace('__', '.')}")
                self.at(field).wait_for()
            (self.choose if name == "model" else self.fill)(field, value)
            self.says("#train-command", str(value))
            if hidden:
                self.at("#train-search :is(input, textarea)").fill("")
                self.at("#setting-steps").wait_for()

    def says(self, selector: str, words: str) -> str:
        """Waits until the text of an element has the words; the whole text."""
        found = self.page.locator(selector).filter(has_text=words).first
        found.wait_for()
        return str(found.inner_text())

    def state(self, state: str, words: str = "") -> str:
        """Waits until the Watch tab shows a run in a state, with the words; all that it says of the run."""
        return self.says(f"#watch-status [data-state={state}]", words)

    def width(self) -> int:
        """How wide the page is, in pixels."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def points(self) -> int:
        """How many steps the loss curve shows."""
        return int(self.page.locator("#watch-loss path[aria-label*='each step'][aria-roledescription=point]").count())

    def previews(self) -> int:
        """How many pictures stand in the Watch tab."""
        return int(self.page.locator("#watch-previews img").count())


def step(run: Path) -> int:
    """The newest step that a run's events tell."""
    try:
        lines = (run / "events.jsonl").read_text().splitlines()
        return max((json.loads(line).get("step", 0) for line in lines if line.endswith("}")), default=0)
    except OSError:
        return 0


def worker(runs: Path) -> psutil.Process:
    """The process of the run at work."""
    job = until(lambda: next((job for job in Queue(runs).read() if job.pid > 0 and not job.end), None), "a job works")
    return psutil.Process(job.pid)


def trains(run: Path, at: int) -> bool:
    """Whether the newest thing that a run's events tell is of its training, at a step or after it."""
    try:
        last = json.loads((run / "events.jsonl").read_text().rpartition("\n")[0].rpartition("\n")[2])
    except (OSError, ValueError):
        return False
    return bool(last["phase"] == "train" and last["step"] >= at)


@contextmanager
def held(run: Path, at: int) -> Iterator[None]:
    """Inside, the run's process stands still, at the given step or soon after it: what the page shows then is no luck.

    It stands in its training: a process that was held while it draws would draw for ever. A run that ended before that
    has none: then it was too short for this machine.
    """
    found = worker(run.parent)

    def stands() -> bool:
        if trains(run, at):
            found.suspend()
            until(lambda: found.status() == psutil.STATUS_STOPPED, "the process stands still")
            if trains(run, at):
                return True
            found.resume()
        return False

    until(stands, f"{run.name} trains at step {at} or after it")
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            found.resume()
