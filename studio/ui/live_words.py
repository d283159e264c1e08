"""What the page says of a watched run: its state with phase, progress and time left; its warnings; its guard's word."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup

from studio.rate import clock
from studio.reward_section import story
from studio.ui import live_log
from studio.ui.live import Live
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
    head = SAID.get(what, what)
    if what == "running":
        head = PHASES.get(live.phase, "starting") if live.end is None else "starting"
    done, total, unit = progress(live, what)
    head = unit if what == "running" and total and unit != "steps" else head
    bar = Markup('<progress value="{}" max="{}" aria-label="{} of {} {}"></progress>') if total else Markup("")
    items = Markup(" ").join(
        Markup('<span class="watch-number"><small>{}</small> {}</span>').format(*part)
        for part in numbers(live, what, now, (done, total, unit))
    )
    frame = Markup('<div class="watch-status" role="status" data-state="{}"><strong>{}</strong> {}<div>{}</div></div>')
    return frame.format(what, head, bar.format(done, total, done, total, unit), items)


def progress(live: Live, what: Doing) -> tuple[int, int, str]:
    """Done, total and what is counted: a phase's own count while it is at work on one, else the steps."""
    if what in AT_WORK and live.phase != "train" and (count := live_log.counting(live.run.folder)):
        return count[1], count[2], PHASES.get(count[0], count[0])
    return min(live.numbers.last, live.rate.total), live.rate.total, "steps"


def numbers(live: Live, what: Doing, now: float, count: tuple[int, int, str]) -> Iterable[Part]:
    """Names and values beside the bar, with their units."""
    done, total, unit = count
    if total:
        yield unit, f"{done:,} of {total:,}"
    if what in AT_WORK and live.phase == "train" and live.rate.speed:
        yield "speed", speed(live.rate.speed)
    if what in AT_WORK and (left := live.left(now)):
        yield "time left", left
    if live.rate.seen:
        yield f"mean {live.rate.name}", f"{live.rate.mean:.4g}"
    if live.peak:
        yield "peak memory", f"{live.peak / 2**30:.2f} GiB"
    silent = now - max(live.heard, live_log.heard(live.run.folder))
    if what in AT_WORK and live.heard and silent > max(QUIET, LATE / (live.rate.speed or LATE)):
        yield "last news", f"{clock(silent)} ago; its process is at work"


def speed(value: float) -> str:
    """Steps per second, or seconds per step where those are more than one."""
    return f"{value:.3g} steps/s" if value >= 1 else f"{1 / value:.3g} s/step"


def notes(live: Live, said: Iterable[str] = ()) -> Markup:
    """Warnings and what else should be read, as an HTML list, the newest first; '' where there is nothing."""
    texts = [*said, *reversed(live.notes)]
    items = Markup("").join(Markup("<li>{}</li>").format(text) for text in texts if text)
    return Markup('<ul class="watch-notes">{}</ul>').format(items) if items else Markup("")


def outcome(live: Live) -> list[str]:
    """What the guard found, how the run ended, and which checkpoint is recommended, in sentences."""
    course = live.numbers.course()
    said = [] if course is None else [story(course)]
    if course is not None and course.back is not None:
        said.append(f"Rolled back: the adapter holds step {course.back} again.")
    elif course is not None and course.best is not None and live.end is None:
        said.append(f"Should its looks stay bad, the adapter goes back to step {course.best} and the run ends.")
    if live.end is not None and live.end.event == "stopped":
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
