"""One visitor's clicks on the page in a real browser, and the seconds until each is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from studio.ui.library_view import RUNS

WAIT = 60_000  # milliseconds
DRAWN = """([box, least]) => {
  const seen = [...document.querySelectorAll(`${box} img`)];
  return seen.length >= least[0] && seen.length <= least[1] && seen.every((one) => one.complete && one.naturalWidth);
}"""
Seconds = dict[str, list[float]]


class Visit:
    """A page of a new visitor, and the seconds that its clicks took. count: the runs of the library."""

    def __init__(self, page: Any, count: int, seconds: Seconds) -> None:
        self.page, self.count, self.seconds = page, count, seconds
        self.tiles = min(RUNS, count)

    def timed(self, what: str, act: Callable[[], Any], *ready: Callable[[], Any]) -> None:
        """Acts, waits until it is drawn, and notes how long that took."""
        begun = time.perf_counter()
        act()
        for one in ready:
            one()
        self.seconds.setdefault(what, []).append(time.perf_counter() - begun)

    def drawn(self, box: str, least: int, most: int = 999) -> None:
        """Waits until so many pictures are in a box, every one of them loaded."""
        self.page.wait_for_function(DRAWN, arg=[box, [least, most]], polling="raf", timeout=WAIT)

    def says(self, box: str, words: str) -> None:
        """Waits until a box has some words."""
        script = "([box, words]) => document.querySelector(box)?.innerText.includes(words)"
        self.page.wait_for_function(script, arg=[box, words], polling="raf", timeout=WAIT)

    def enter(self, box: str, words: str) -> Any:
        """Types a choice into a list."""
        return lambda: (self.page.locator(f"{box} input").fill(words), self.page.keyboard.press("Enter"))

    def all(self, address: str) -> None:
        """Everything that is timed."""
        page, tab, search = self.page, "#tab-{}-button", page_field(self.page, "#library-search")
        self.timed("page opened", lambda: page.goto(address), lambda: page.get_by_role("tab", name="Train").wait_for())
        page.wait_for_timeout(3000)  # what an opened page reads is not the next click's
        first = f"of {max(1, -(-self.count // RUNS))}"
        self.timed("Library: opened", page.locator(tab.format("library")).click, self.tiled)
        self.timed("Library: search without a match", search("zebra"), lambda: self.says("#library-count", "No run"))
        self.timed("Library: search for one run", search("run-000"), lambda: self.drawn("#library-runs", 1, 1))
        self.timed("Library: search cleared", search(""), lambda: self.says("#library-count", first), self.tiled)
        if self.count > RUNS:
            turn = page.locator("#library-next").click
            self.timed("Library: next page", turn, lambda: self.says("#library-count", "page 2"), self.tiled)
        else:
            self.seconds.setdefault("Library: next page", []).append(self.seconds["Library: search cleared"][-1])
        tile = page.locator("#library-runs button").first.click
        self.timed("Library: a run chosen", tile, lambda: self.drawn("#library-pictures", 10))
        page.locator(tab.format("watch")).click()
        self.enter("#watch-run", "zebra")()
        self.says("#watch-status", "zebra")
        choose = self.enter("#watch-run", "run-000")
        self.timed("Watch: a run chosen", choose, lambda: self.says("#watch-status", "done"), self.shown)
        page.locator(tab.format("compare")).click()
        page.locator("#compare-runs input").focus()
        page.wait_for_timeout(1000)
        choose = self.enter("#compare-runs", "run-000")
        self.timed("Compare: a run chosen", choose, lambda: self.drawn("#compare-previews", 4))

    def shown(self) -> None:
        """Waits for the previews of the run that is watched."""
        self.drawn("#watch-previews", 4)

    def tiled(self) -> None:
        """Waits for a page of runs."""
        self.drawn("#library-runs", self.tiles)


def page_field(page: Any, box: str) -> Callable[[str], Callable[[], Any]]:
    """What types words into a field."""
    return lambda words: lambda: (page.locator(f"{box} :is(input, textarea)").fill(words), page.keyboard.press("Tab"))
