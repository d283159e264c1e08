"""The queue as the page shows it: what runs, what waits in which order, what ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

from markupsafe import Markup

from studio.rate import lasting
from studio.ui.jobs import Job, Queue

ENDED = 8  # ended jobs that are shown
HEAD = ("place", "job", "state", "since")
OPEN = ("running", "stopping", "waiting")


def name(job: Job) -> str:
    """`train cat-dco`."""
    what = job.words[0] if job.words else "?"
    return f"{what} {job.run}".strip()


def listed(jobs: Sequence[Job]) -> list[Job]:
    """At work first, then waiting in their order, then the newest of the ended ones."""
    waiting = [job for job in jobs if job.state == "waiting"]
    working = [job for job in jobs if job.state in ("running", "stopping")]
    ended = sorted((job for job in jobs if job.end), key=lambda job: job.ended, reverse=True)
    return [*working, *waiting, *ended[:ENDED]]


def choices(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    """Label and id of every job that can still be moved or taken out."""
    return [(f"{name(job)} ({job.state})", job.id) for job in listed(jobs) if job.state in OPEN]


def stamp(jobs: Sequence[Job]) -> tuple[tuple[str, str, float, str], ...]:
    """Changes when a job does."""
    return tuple((job.id, job.state, job.order, job.reason) for job in listed(jobs))


def table(jobs: Sequence[Job], now: float | None = None) -> Markup:
    """The jobs as an HTML table, every text escaped; '' without jobs."""
    now = time.time() if now is None else now
    rows, place = [], 0
    for job in listed(jobs):
        place += job.state == "waiting"
        cells = (str(place) if job.state == "waiting" else "", name(job), state(job), since(job, now))
        rows.append(Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(one) for one in cells)))
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(one) for one in HEAD)
    frame = Markup('<table class="watch-queue"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>')
    return frame.format(head, Markup("").join(rows)) if rows else Markup("")


def state(job: Job) -> str:
    """`failed: the disk is full`; a reason that begins with the state stands alone."""
    if not job.reason or job.reason.startswith(job.state):
        return job.reason or job.state
    return f"{job.state}: {job.reason}"


def since(job: Job, now: float) -> str:
    """When the job came into its state, in the clock's words: the table need not be drawn anew every second."""
    moment = job.ended or (job.began if job.state in ("running", "stopping") else job.asked)
    took = f" (took {lasting(job.ended - job.began)})" if job.ended and job.began else ""
    form = "%H:%M" if now - moment < 20 * 3600 else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(moment)) + took


def move(queue: Queue, job: str, by: int) -> None:
    """A waiting job comes sooner (by = -1) or later. Raises UsageError for one that does not wait."""
    waiting = [found.id for found in queue.jobs() if found.state == "waiting"]
    queue.move(job, max(0, waiting.index(job) + by) if job in waiting else 0)
