"""The Compare tab: runs beside each other, checkpoints by strength, the report, and a blind test for one's own eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from studio.pipelines.errors import UsageError
from studio.ui import side_by_side, side_choice, side_tables, tab_blind
from studio.ui.compare_jobs import evaluate, states
from studio.ui.library import run_of
from studio.ui.place import Place, Where
from studio.ui.tab_answers import BUSY, QUIET, told
from studio.ui.words import EMPTY

EVERY = 4.0  # seconds between two looks at the disk
SMALL: dict[str, Any] = {"size": "md", "min_width": 140, "scale": 0}


class Tab:
    """The tab's components."""

    def __init__(self, place: Where) -> None:
        self.place, self.seen, self.timer = place, gr.State({}), gr.Timer(EVERY)
        self.runs = gr.Dropdown(
            [], value=[], multiselect=True, max_choices=side_by_side.MOST, elem_id="compare-runs",
            label=f"Runs to compare (up to {side_by_side.MOST})",
        )  # fmt: skip
        with gr.Row():
            self.quick = gr.Checkbox(True, label="Quick: two prompts of each set", elem_id="compare-quick")
            self.pick = gr.Checkbox(False, label="Take the recommended checkpoints first", elem_id="compare-pick")
            self.evaluate = gr.Button("Evaluate", variant="primary", elem_id="compare-evaluate", **SMALL)
        self.said = gr.Markdown(EMPTY["compare"], elem_id="compare-said")
        with gr.Row():
            with gr.Column(min_width=320):
                self.scores = gr.HTML(elem_id="compare-scores", css_template=side_tables.CSS)
            with gr.Column(min_width=320):
                with gr.Row(visible=False) as self.axes:
                    self.across = gr.Dropdown([], label="Plot: across", elem_id="compare-across")
                    self.upwards = gr.Dropdown([], label="Plot: upwards", elem_id="compare-upwards")
                self.plot = gr.HTML(elem_id="compare-plot", css_template=side_tables.CSS)
        with gr.Accordion("Previews beside each other", open=True, elem_id="compare-previews-box"):
            self.previews = gr.HTML(elem_id="compare-previews", css_template=side_tables.CSS)
        self.one()
        self.blind = tab_blind.Panel(place)

    def one(self) -> None:
        """Checkpoints and report of one of the runs."""
        self.run = gr.Dropdown([], value=None, label="One run: checkpoints and report", elem_id="compare-run")
        self.reason = gr.Markdown(elem_id="compare-reason")
        with gr.Row(visible=False) as self.asked:
            self.prompt = gr.Dropdown([], label="Prompt of the grid", elem_id="compare-prompt")
            self.seed = gr.Dropdown([], label="Seed of the grid", elem_id="compare-seed")
        self.grid = gr.HTML(elem_id="compare-grid", css_template=side_tables.CSS)
        self.download = gr.DownloadButton("Download report.html", visible=False, elem_id="compare-download", **SMALL)
        self.report = gr.HTML(elem_id="compare-report")

    def bind(self) -> None:
        """A choice draws at once; the clock draws what changed on the disk."""
        outs = [self.seen, self.said, self.scores, self.axes, self.across, self.upwards, self.plot, self.previews]
        outs += [self.run]
        ins = [self.runs, self.seen]
        self.runs.change(told(self.chosen), ins, outs, **BUSY)
        self.timer.tick(told(self.look), ins, outs, **QUIET)
        axes = [self.runs, self.across, self.upwards]
        gr.on([self.across.input, self.upwards.input], told(self.drawn), axes, self.plot, **QUIET)
        single = [self.reason, self.asked, self.prompt, self.seed, self.grid, self.download, self.report]
        self.run.change(told(self.opened), self.run, single, **BUSY)
        cells = [self.run, self.prompt, self.seed]
        gr.on([self.prompt.input, self.seed.input], told(self.redrawn), cells, self.grid, **QUIET)
        asked = [self.runs, self.quick, self.pick]
        self.evaluate.click(told(self.start), asked, self.said, **BUSY)
        self.runs.focus(told(self.names), None, self.runs, **QUIET)
        self.blind.bind()
        if Context.root_block is not None:
            Context.root_block.load(told(self.names), None, self.runs, **QUIET)

    def names(self, request: gr.Request) -> Any:
        """The runs that may be compared, the newest first; what is chosen stays as it is, also while this is asked."""
        return gr.update(choices=[run.name for run in self.place(request).store.list()])

    def chosen(self, names: list[str], seen: dict[str, Any], request: gr.Request) -> Any:
        """The runs as they are chosen now."""
        return self.look(names, {}, request)

    def look(self, names: list[str], seen: dict[str, Any], request: gr.Request) -> Any:
        """The comparison; nothing where the runs' files and jobs are as this visitor's page has them."""
        here = self.place(request)
        folders = self.folders(here, names)
        gone = [f"{name} is not there any more." for name in names or [] if name not in [f.name for f in folders]]
        said = " ".join([*gone, states(here.runs, names)]).strip() or (EMPTY["compare"] if not folders else "")
        now = {"names": list(names or []), "said": said, "stamp": side_by_side.stamp(folders)}
        if now == seen:
            return [gr.skip()] * 9
        shared = side_by_side.shared(folders)
        axes = side_by_side.usual(shared) or (None, None)
        across, upwards = (gr.update(choices=shared, value=axis) for axis in axes)
        rows = side_by_side.table(folders)
        table = side_tables.scores([f.name for f in folders], rows) if rows else side_tables.unscored(folders)
        plot = side_tables.plane(folders, *axes)
        single = gr.update(choices=list(names or []), value=next(iter(names or []), None))
        drawn = [table, gr.update(visible=bool(plot)), across, upwards, plot, side_tables.strip(folders, here.runs)]
        return [now, said, *drawn, single if now["names"] != seen.get("names") else gr.skip()]

    def folders(self, here: Place, names: list[str] | None) -> list[Path]:
        """The folders of the chosen runs that are there."""
        known = {run.name for run in here.store.list()}
        return [run_of(here.runs, name).folder for name in names or [] if name in known]

    def drawn(self, names: list[str], across: str | None, upwards: str | None, request: gr.Request) -> str:
        """The plot over other scores."""
        return side_tables.plane(self.folders(self.place(request), names), across, upwards)

    def opened(self, name: str | None, request: gr.Request) -> Any:
        """Checkpoints and report of a run."""
        if not name:
            hidden = gr.update(visible=False)
            return ["", hidden, gr.skip(), gr.skip(), "", hidden, ""]
        here = self.place(request)
        folder = run_of(here.runs, name).folder
        choice, report = side_choice.read(folder), folder / "report.html"
        prompts = [(text, at) for at, text in enumerate(choice.prompts)]
        seeds = choice.seeds()
        reason = choice.said() or f"No checkpoint of {name} was scored: a run with --save-every scores its checkpoints."
        return [
            reason,
            gr.update(visible=bool(choice.candidates)),
            gr.update(choices=prompts, value=0 if prompts else None),
            gr.update(choices=seeds, value=next(iter(seeds), None)),
            side_tables.grid(choice, here.runs),
            gr.update(value=str(report) if report.is_file() else None, visible=report.is_file()),
            side_tables.frame(report) or side_tables.note(f"{name} has no report yet: Evaluate writes it."),
        ]

    def redrawn(self, name: str | None, prompt: int | None, seed: str | None, request: gr.Request) -> str:
        """The grid for another prompt or seed."""
        here = self.place(request)
        return side_tables.grid(
            side_choice.read(run_of(here.runs, name or "").folder), here.runs, prompt or 0, seed or ""
        )

    def start(self, names: list[str], quick: bool, pick: bool, request: gr.Request) -> str:
        """Puts an evaluation of each run into the queue."""
        here = self.place(request)
        here.may_write("evaluating")
        if not names:
            raise UsageError("choose the runs to evaluate first")
        return evaluate(here.runs, names, here.owner, quick, pick)


def build(place: Where) -> Tab:
    """The tab, inside the page that is being built."""
    tab = Tab(place)
    tab.bind()
    return tab
