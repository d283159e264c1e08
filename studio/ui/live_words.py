"""What the page says of a watched run: its state with phase, progress and time left; its warnings; its guard's word."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup

from studio.rate import lasting
from studio.reward_section import story
from studio.ui import live_log
from studio.ui.live import Live
from studio.ui.live_log import Count
from studio.ui.live_state import AT_WORK, Doing

PHASES = {
    "load": "loading the model",
    "cache": "reading the pictures",
    "train": "training",
    "score": "scoring a checkpoint",
    "preview": "drawing previews",
    "export": "writing the adapter",
    "check": "checking the adapter in a stock pipeline",
}
UNITS = {"score": "pictures", "preview": "pictures", "check": "pictures"}
SAID = {
    "new": "not started; Resume starts it",
    "waiting": "waits in the queue",
    "cancelled": "taken out of the queue before it began; Resume puts it back",
    "stopping": "stopping: the step is finished and saved first",
    "done": "done",
    "stopped": "stopped; Resume goes on",
    "failed": "failed; Resume tries again from the last checkpoint",
    "interrupted": "its process ended without a word; Resume goes on from the last checkpoint",
}
CHOICE = "choice.json"
QUIET, LATE = 30.0, 3.0  # seconds, and steps, without news after which the page says so
Part = tuple[str, str]


def status(live: Live, what: Doing, now: float | None = None) -> Markup:
    """State, progress bar and numbers as HTML; every text of the run is escaped."""
    now = time.time() if now is None else now
    count = live_log.counting(live.run.folder) if what in AT_WORK and live.phase != "train" else None
    head = SAID.get(what, what)
    if what == "running":
        head = "starting" if live.end is not None else working(live, count)
    done, total, unit = progress(live, count)
    bar = Markup('<progress value="{}" max="{}" aria-label="{} of {} {}"></progress>') if total else Markup("")
    items = Markup(" ").join(
        Markup('<span class="watch-number"><small>{}</small> {}</span>').format(*part)
        for part in numbers(live, what, now, count)
    )
    frame = Markup('<div class="watch-status" role="status" data-state="{}"><strong>{}</strong> {}<div>{}</div></div>')
    return frame.format(what, head, bar.format(done, total, done, total, unit), items)


def working(live: Live, count: Count | None) -> str:
    """The phase that a run is in: `scoring checkpoint 2 of 3`."""
    if count is None:
        return PHASES.get(live.phase, "starting")
    if not count.what:
        return PHASES.get(count.phase, count.phase)
    several = f"; {count.round} of {count.rounds} to draw" if count.rounds > 1 else ""
    return f"scoring {count.what}{several}"


def progress(live: Live, count: Count | None) -> tuple[int, int, str]:
    """Done, total and what is counted: a phase's own count while it is at work on one, else the steps."""
    if count is not None:
        return count.done, count.total, UNITS.get(count.phase, "done")
    return min(live.numbers.last, live.rate.total), live.rate.total, "steps"


def numbers(live: Live, what: Doing, now: float, count: Count | None) -> Iterable[Part]:
    """Names and values beside the bar, with their units. The steps are there whatever else is counted."""
    for done, total, unit in dict.fromkeys([progress(live, count), progress(live, None)]):
        if total:
            yield unit, f"{done:,} of {total:,}"
    fresh = what in AT_WORK and live.end is None  # else what is known is of an earlier start
    if fresh and live.phase == "train" and live.rate.speed:
        yield "speed", speed(live.rate.speed)
    if fresh and (left := live.left(now)):
        yield "time left", left
    if fresh and count is not None and (wait := count.left(now)) is not None:
        yield "scoring left", f"about {lasting(wait)}"
    if (mean := live.numbers.mean()) is not None:
        yield f"mean {live.numbers.main} of {mean[1]} steps", f"{mean[0]:.4g}"
    if live.peak:
        yield "peak memory", f"{live.peak / 2**30:.2f} GiB"
    silent = now - max(live.heard, live_log.heard(live.run.folder))
    if what in AT_WORK and live.heard and silent > max(QUIET, LATE / (live.rate.speed or LATE)):
        yield "last news", f"{lasting(silent)} ago; its process is at work"


def speed(value: float) -> str:
    """Steps per second, or seconds per step where those are more than one."""
    return f"{value:.3g} steps/s" if value >= 1 else f"{1 / value:.3g} s/step"


def notes(live: Live, said: Iterable[str] = ()) -> Markup:
    """Warnings and what else should be read, as an HTML list, the newest first; '' where there is nothing."""
    texts = [*said, *reversed(live.notes)]
    items = Markup("").join(Markup("<li>{}</li>").format(text) for text in texts if text)
    return Markup('<ul class="watch-notes">{}</ul>').format(items) if items else Markup("")


def outcome(live: Live, what: Doing) -> list[str]:
    """What the guard found, how the run ended, and which checkpoint is recommended, in sentences."""
    course = live.numbers.course()
    said = [] if course is None else [story(course)]
    if course is not None and course.back is not None:
        said.append(f"Rolled back: the adapter holds step {course.back} again.")
    elif course is not None and course.best is not None and live.end is None:
        said.append(f"Should its looks stay bad, the adapter goes back to step {course.best} and the run ends.")
    if what == "stopped" and live.end is not None and live.end.event == "stopped":
        said.append(str(live.end.fields.get("message", "")))
    return said + (recommended(live.run.folder / CHOICE) if live.end is not None else [])


def recommended(file: Path) -> list[str]:
    """Which checkpoint is recommended and why; [] where none is."""
    try:
        reason = picked(file, file.stat().st_mtime_ns)
    except OSError:
        return []
    return [f"Recommended checkpoint: {reason}"] if reason else []


@lru_cache(maxsize=256)
def picked(file: Path, changed: int) -> str:
    """The reason in a run's choice.json, read without what ranks them (studio.choice_file needs torch); '' for none."""
    try:
        return str(json.loads(file.read_text("utf-8"))["picked"]["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
