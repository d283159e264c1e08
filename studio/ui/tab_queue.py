"""The queue's panel: what runs and waits, sooner, later, out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.ui import live_queue
from studio.ui.jobs import Job, Queue
from studio.ui.place import Place, Where
from studio.ui.words import EMPTY, toast

Updates = dict[Any, Any]
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
LOOK = """
.watch-queue { width: 100%; border-collapse: collapse; font-size: .875rem; border: 0; }
.watch-queue :is(thead, tbody, tr) { border: 0; }
.watch-queue :is(td, th) { text-align: left; padding: .25rem .6rem .25rem 0; vertical-align: top; border: 0;
  border-bottom: 1px solid var(--border-color-primary); }
.watch-queue td:nth-child(n+2) { overflow-wrap: anywhere; }
.watch-queue td:nth-child(3) { min-width: 5rem; }
@media (max-width: 640px) {
  .watch-queue thead { display: none; }
  .watch-queue tr { display: grid; grid-template-columns: 1.4rem 1fr auto; padding: .35rem 0;
    border-bottom: 1px solid var(--border-color-primary); }
  .watch-queue td { border: 0; padding: 0 .4rem 0 0; }
  .watch-queue td:nth-child(2) { font-weight: 600; }
  .watch-queue td:nth-child(3) { grid-area: 2 / 2 / 3 / 4; }
  .watch-queue td:nth-child(4) { grid-area: 1 / 3 / 2 / 4; padding-right: 0; }
}
"""


@dataclass
class Panel:
    """The panel's components; `place` says whose queue it is."""

    place: Where
    table: gr.HTML
    job: gr.Dropdown
    sooner: gr.Button
    later: gr.Button
    out: gr.Button
    clear: gr.Button

    @classmethod
    def build(cls, place: Where) -> Panel:
        """The panel, where it is called."""
        table = gr.HTML(f'<p class="watch-empty">{EMPTY["looking"]}</p>', css_template=LOOK, elem_id="queue-table")
        job = gr.Dropdown(
            [], value=None, allow_custom_value=True, label="Job that waits or runs", elem_id="queue-job", scale=3,
            visible=False,
        )  # fmt: skip
        with gr.Row():
            buttons = [
                gr.Button(label, size="sm", elem_id=f"queue-{name}", min_width=120, visible=False)
                for name, label in {
                    "sooner": "Sooner", "later": "Later", "out": "Take out or stop", "clear": "Clear ended"
                }.items()
            ]  # fmt: skip
        return cls(place, table, job, *buttons)

    def outputs(self) -> list[Any]:
        """What `look` may change."""
        return [self.table, self.job, self.sooner, self.later, self.out, self.clear]

    def look(self, jobs: Sequence[Job], job: str | None, seen: dict[str, Any]) -> Updates:
        """What is to be drawn anew. seen: what this visitor has, which is brought up to date."""
        now = live_queue.stamp(jobs)
        if seen.get("queue") == now:
            return {}
        seen["queue"] = now
        choices = live_queue.choices(jobs)
        known = [value for _, value in choices]
        kept = job if job in known else None  # never another job by itself: the next click might stop it
        table = str(live_queue.table(jobs)) or f'<p class="watch-empty">{EMPTY["queue"]}</p>'
        able = gr.update(visible=bool(choices))  # no lists and buttons where there is nothing to choose
        drawn = {self.table: table, self.job: gr.update(choices=choices, value=kept, visible=bool(choices))}
        drawn |= dict.fromkeys((self.sooner, self.later, self.out), able)
        return drawn | {self.clear: gr.update(visible=any(job.end for job in jobs))}

    def bind(self, then: Callable[[Any], Any]) -> None:
        """The buttons act; `then` lets the page look at once."""
        acts: dict[gr.Button, Callable[[Queue, str], Any]] = {
            self.sooner: lambda queue, job: live_queue.move(queue, job, -1),
            self.later: lambda queue, job: live_queue.move(queue, job, 1),
            self.out: lambda queue, job: queue.cancel(job),
            self.clear: lambda queue, job: queue.forget(),
        }
        for button, act in acts.items():
            then(button.click(self.acting(act, button is self.clear), [self.job], None, **QUIET))

    def acting(self, act: Callable[[Queue, str], Any], always: bool) -> Callable[..., None]:
        """A button's handler. always: it needs no chosen job."""

        def handle(job: str | None, request: gr.Request) -> None:
            try:
                here: Place = self.place(request)
                here.may_write("changing the queue")
                if job or always:
                    act(Queue(here.runs), job or "")
            except Exception as error:
                raise gr.Error(toast(error), print_exception=False) from None
            if not (job or always):
                gr.Info("Choose a job that waits or runs first.")

        return handle
