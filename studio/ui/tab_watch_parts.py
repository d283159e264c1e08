"""The Watch tab's components, from top to bottom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import escape

from studio.ui.live_numbers import COLOURS
from studio.ui.place import Where
from studio.ui.tab_queue import Panel
from studio.ui.words import EMPTY

EVERY, IDLE = 2.0, 6.0  # seconds between two looks, while something is at work and while nothing is
PANELS = 8  # lines of a run by rewards: trained reward, judges, diversity, distance
FAR = 10_000  # previews a slider may count: a page that was open before the server restarted still fits
LOOK = """
#watch-previews .grid-wrap { min-height: 0; max-height: none; }
#watch-previews .grid-container { grid-template-columns: repeat(auto-fill, minmax(min(16rem, 45%), 1fr)) !important; }
[id^=watch-]:has(> .vega-embed) { display: flex; flex-direction: column; }
[id^=watch-] > .vega-embed { flex: 1 1 0; min-height: 0; }
[id^=watch-]:has(> .vega-embed) > span { padding-right: 3.5rem; }
"""  # pairs stay beside each other, also on a phone, and a label of two lines leaves a curve its axis
ASKS = (("stop", "Stop and save", "stop"), ("resume", "Resume", "primary"), ("sample-now", "Sample now", "secondary"),
        ("roll-back", "Roll back to the best", "secondary"))  # fmt: skip
STATUS = """
.watch-status strong { margin-right: .6rem; }
.watch-status progress { width: min(100%, 24rem); height: .6rem; appearance: none; border: 0; border-radius: .3rem;
  overflow: hidden; vertical-align: middle; background: var(--border-color-primary); }
.watch-status progress::-webkit-progress-bar { background: var(--border-color-primary); }
.watch-status progress::-webkit-progress-value { background: var(--primary-500); }
.watch-status progress::-moz-progress-bar { background: var(--primary-500); }
.watch-status[data-state=failed] strong { color: var(--error-text-color); }
.watch-number { display: inline-block; margin: .25rem 1.2rem 0 0; font-variant-numeric: tabular-nums; }
.watch-number small { color: var(--body-text-color-subdued); }
"""
NOTES = ".watch-notes { margin: 0; padding-left: 1.1rem; max-height: 14rem; overflow-y: auto; font-size: .875rem; }"


@dataclass
class Parts:
    """The components. run: the run that is watched, for other tabs to set; seen: what this visitor's page shows."""

    place: Where
    run: gr.Dropdown
    status: gr.HTML
    notes: gr.HTML
    stop: gr.Button
    resume: gr.Button
    sample: gr.Button
    back: gr.Button
    at: gr.Slider
    gallery: gr.Gallery
    curve: gr.LinePlot
    rate: gr.LinePlot
    number: gr.Dropdown
    other: gr.LinePlot
    panels: list[gr.LinePlot]
    more: gr.Accordion
    log: gr.Textbox
    logs: gr.Accordion
    queue: Panel
    seen: gr.State
    kept: gr.BrowserState
    timer: gr.Timer

    def inputs(self) -> list[Any]:
        """What a look needs to know of the page. Not the slider: what it says late lies beyond an end set meanwhile."""
        return [self.run, self.number, self.queue.job, self.seen]

    def outputs(self) -> list[Any]:
        """What a look may change."""
        shown = [
            self.status,
            self.notes,
            self.stop,
            self.resume,
            self.sample,
            self.back,
            self.at,
            self.gallery,
            self.curve,
        ]
        rest = [self.rate, self.number, self.other, self.more, *self.panels, self.log, self.logs]
        return [self.run, *shown, *rest, *self.queue.outputs(), self.seen, self.timer]


def empty(text: str) -> str:
    """A sentence where there is nothing else to show."""
    return f'<p class="watch-empty">{escape(text)}</p>'


def plot(name: str, label: str, visible: bool = True, least: int = 280) -> gr.LinePlot:
    """A line over steps."""
    return gr.LinePlot(
        x="step", y="value", color="line", x_title="step", y_title=" ", tooltip="all", height=300,
        color_map=COLOURS, colors_in_legend=[],  # the names are in the label
        label=label, min_width=least, visible=visible, elem_id=f"watch-{name}", buttons=["fullscreen", "export"],
    )  # fmt: skip


def layout(place: Where) -> dict[str, Any]:
    """The components by name, from top to bottom."""
    run = gr.Dropdown([], value=None, allow_custom_value=True, label="Run", elem_id="watch-run")
    status = gr.HTML(empty(EMPTY["looking"]), css_template=STATUS, elem_id="watch-status")
    with gr.Row():
        asks = [
            gr.Button(label, interactive=False, variant=kind, elem_id=f"watch-{name}", min_width=120,
                      visible=name != "roll-back")
            for name, label, kind in ASKS
        ]  # fmt: skip
    notes = gr.HTML(css_template=NOTES, elem_id="watch-notes")
    with gr.Row():
        curve, rate = plot("loss", "loss by step", False), plot("lr", "learning rate by step", False)
    at = gr.Slider(1, FAR, value=FAR, step=1, label=EMPTY["previews"], visible=False, elem_id="watch-step")
    gallery = gr.Gallery(
        label=EMPTY["previews"], columns=4, fit_columns=False, height="auto", object_fit="contain", format="png",
        elem_id="watch-previews", visible=False,
    )  # fmt: skip
    with gr.Row():
        panels = [plot(f"panel-{number}", "", visible=False, least=400) for number in range(PANELS)]
    with gr.Accordion("More numbers", open=False, elem_id="watch-more", visible=False) as more:
        number = gr.Dropdown([], value=None, allow_custom_value=True, label="Number by step", elem_id="watch-number")
        other = plot("other", "", visible=False)
    with gr.Accordion("Log", open=False, elem_id="watch-log-panel", visible=False) as logs:
        log = gr.Textbox(
            label="The end of the run's log", lines=14, max_lines=14, elem_id="watch-log", buttons=["copy"]
        )
    with gr.Accordion("Queue", open=True, elem_id="watch-queue"):
        queue = Panel.build(place)
        gr.HTML(f"<style>{LOOK}</style>", container=False, padding=False)
    return {
        "place": place, "run": run, "status": status, "notes": notes, "at": at, "gallery": gallery, "curve": curve,
        "rate": rate, "number": number, "other": other, "panels": panels, "more": more, "log": log, "logs": logs,
        "queue": queue,
        **dict(zip(("stop", "resume", "sample", "back"), asks, strict=True)),
        "seen": gr.State({}),
        "kept": gr.BrowserState(None, storage_key="studio-watched", secret="studio-watched"),  # a name, nothing secret
        "timer": gr.Timer(EVERY),
    }  # fmt: skip
