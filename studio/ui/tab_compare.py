"""The Compare tab: runs beside each other, checkpoints by strength, the report, and a blind test for one's own eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from studio.pipelines.errors import UsageError
from studio.ui import kept, side_by_side, side_choice, side_tables, tab_blind
from studio.ui.compare_jobs import evaluate, missing, offered, states
from studio.ui.library import run_of
from studio.ui.place import Place, Where
from studio.ui.tab_answers import BUSY, QUIET, told
from studio.ui.words import EMPTY

NAME = "compare"  # of what the browser remembers
FIELDS = ("runs", "quick", "pick", "across", "upwards", "run", "prompt", "seed")
QUICK = "Takes a fraction of the time; the intervals are wider. A fuller evaluation that is there is kept."
PICK = (
    "For runs with saved checkpoints: the checkpoint and strength with the best pictures, named below as Recommended, "
    "replaces the run's adapter file; then that is scored."
)
UNSCORED = (
    "No checkpoint of {} was scored, so none is recommended. A run that saves checkpoints (Train, *A checkpoint "
    "every*, in steps) draws pictures with each of them when it is done, and recommends the best one here."
)
EVERY = 4.0  # seconds between two looks at the disk
OPEN: dict[str, Any] = {
    "choices": [],
    "value": None,
    "allow_custom_value": True,
}  # a server begun anew knows no choices
SMALL: dict[str, Any] = {"size": "md", "min_width": 140, "scale": 0}


class Tab:
    """The tab's components. seen: what the page has drawn; back: what the browser had kept when it was opened."""

    def __init__(self, place: Where) -> None:
        self.place, self.seen, self.back, self.timer = place, gr.State({}), gr.State({}), gr.Timer(EVERY)
        self.runs = gr.Dropdown(
            [], value=[], multiselect=True, allow_custom_value=True, max_choices=side_by_side.MOST,
            label=f"Runs to compare (up to {side_by_side.MOST})", elem_id="compare-runs",
        )  # fmt: skip
        with gr.Row():
            with gr.Column(min_width=280):  # below each other on a phone
                self.quick = gr.Checkbox(
                    True, label="Quick: two prompts of each set, two seeds", info=QUICK, elem_id="compare-quick",
                )  # fmt: skip
            with gr.Column(min_width=280):
                self.pick = gr.Checkbox(False, label=side_choice.PICK, info=PICK, elem_id="compare-pick")
            self.evaluate = gr.Button("Evaluate", variant="primary", elem_id="compare-evaluate", **SMALL)
        self.said = gr.Markdown(EMPTY["compare"], elem_id="compare-said")
        with gr.Row():
            with gr.Column(min_width=320):
                self.scores = gr.HTML(elem_id="compare-scores", css_template=side_tables.CSS)
            with gr.Column(min_width=320):
                with gr.Row(visible=False) as self.axes:
                    self.across = gr.Dropdown(**OPEN, label="Plot: across", elem_id="compare-across")
                    self.upwards = gr.Dropdown(**OPEN, label="Plot: upwards", elem_id="compare-upwards")
                self.plot = gr.HTML(elem_id="compare-plot", css_template=side_tables.CSS)
        with gr.Accordion("Previews beside each other", open=True, elem_id="compare-previews-box"):
            self.previews = gr.HTML(elem_id="compare-previews", css_template=side_tables.CSS)
        self.one()
        self.kept, self.listed, self.drawn_of = gr.JSON(visible=False), gr.State([]), gr.State([])
        self.blind = tab_blind.Panel(place)

    def one(self) -> None:
        """Checkpoints and report of one of the runs."""
        self.run = gr.Dropdown(**OPEN, label="One run: checkpoints and report", elem_id="compare-run")
        self.reason = gr.Markdown(elem_id="compare-reason")
        with gr.Row(visible=False) as self.asked:
            self.prompt = gr.Dropdown(**OPEN, label="Prompt of the grid", elem_id="compare-prompt")
            self.seed = gr.Dropdown(**OPEN, label="Seed of the grid", elem_id="compare-seed")
        self.grid = gr.HTML(elem_id="compare-grid", css_template=side_tables.CSS)
        self.download = gr.DownloadButton("Download report.html", visible=False, elem_id="compare-download", **SMALL)
        self.report = gr.HTML(elem_id="compare-report", js_on_load=side_tables.WEAR)

    def bind(self) -> None:
        """A choice draws at once; the clock draws what changed on the disk."""
        outs = [self.seen, self.said, self.scores, self.axes, self.across, self.upwards, self.plot, self.previews]
        outs += [self.run]
        ins = [self.runs, self.across, self.upwards, self.run, self.seen, self.back]
        self.runs.change(told(self.look), ins, outs, **BUSY)
        self.timer.tick(told(self.look), ins, outs, **QUIET)
        axes = [self.runs, self.across, self.upwards]
        gr.on([self.across.input, self.upwards.input], told(self.drawn), axes, self.plot, **QUIET)
        single = [self.reason, self.asked, self.prompt, self.seed, self.grid, self.download, self.report, self.drawn_of]
        cells = [self.run, self.prompt, self.seed]
        shown = [*cells, self.back]
        self.run.change(told(self.opened), shown, single, **BUSY)
        self.timer.tick(told(self.opened_again), [*shown, self.drawn_of], single, **QUIET)
        gr.on([self.prompt.input, self.seed.input], told(self.redrawn), cells, self.grid, **QUIET)
        asked = [self.runs, self.quick, self.pick]
        self.evaluate.click(told(self.start), asked, self.said, **BUSY)
        self.runs.focus(told(self.names), self.listed, [self.runs, self.listed], **QUIET)
        self.blind.bind()
        fields = [self.runs, self.quick, self.pick, *axes[1:], *cells]
        gr.on([field.change for field in fields], None, fields, None, js=kept.keep(NAME, FIELDS), **QUIET)
        if Context.root_block is not None:
            load = Context.root_block.load
            load(told(self.names), self.listed, [self.runs, self.listed], **QUIET)
            came = load(told(self.arrive), self.kept, [self.back, *fields], js=kept.kept(NAME), **QUIET)
            drawn = came.then(told(self.look), ins, outs, **QUIET).then(told(self.opened), shown, single, **QUIET)
            drawn.then(None, fields, None, js=kept.taken(NAME, FIELDS), **QUIET)

    def arrive(self, found: Any, request: gr.Request) -> Any:
        """A page that was just opened: the fields as this browser had them, without the runs that are gone."""
        known = [run.name for run in self.place(request).store.list()]
        if not found:  # nothing was kept: what somebody chooses meanwhile stays
            return [gr.skip()] * (len(FIELDS) + 1)
        wanted = kept.words(found, "runs", side_by_side.MOST)
        names = [name for name in wanted if name in known]
        marks = [kept.yes(found, "quick", True), kept.yes(found, "pick", False)]
        one = [name] if (name := kept.word(found, "run")) in names else []
        lists = [[word] if (word := kept.word(found, field)) else [] for field in ("across", "upwards", "seed")]
        prompt = kept.whole(found, "prompt", 0, 99, 0)
        across, upwards, run, seed = (
            gr.update(choices=some, value=next(iter(some), None)) for some in (*lists[:2], one, lists[2])
        )
        back: dict[str, Any] = {"runs": names, "gone": kept.gone(wanted, known, "left out of the comparison")}
        back |= {field: kept.word(found, field) for field in ("across", "upwards", "run", "seed")} | {"prompt": prompt}
        runs = gr.update(choices=offered(self.place(request).runs), value=names)
        return [back, runs, *marks, across, upwards, run, gr.update(choices=[prompt], value=prompt), seed]

    def names(self, listed: list[str], request: gr.Request) -> Any:
        """The runs that may be compared, the newest first, where they are others than the list has: a list that is
        drawn anew may take back what is being chosen in it.
        """
        known = offered(self.place(request).runs)
        return [gr.skip(), gr.skip()] if known == listed else [gr.update(choices=known), known]

    def look(
        self,
        names: list[str],
        across: str | None,
        upwards: str | None,
        run: str | None,
        seen: dict[str, Any],
        back: dict[str, Any],
        request: gr.Request,
    ) -> Any:
        """The comparison; nothing where the choice, the runs' files and jobs are as this visitor's page has them."""
        here, names = self.place(request), list(names or [])
        folders, fresh = self.folders(here, names), seen.get("names") != names
        back = back if back.get("runs") == names else {}
        gone = back.get("gone") or kept.gone(names, [folder.name for folder in folders], "choose others")
        stand = states(here.runs, names), missing(here.runs, [folder.name for folder in folders])
        said = " ".join(filter(None, [gone, *stand])) or (EMPTY["compare"] if not folders else "")
        now = {"names": names, "said": said, "stamp": side_by_side.stamp(folders)}
        if now == seen or not (names or seen.get("names")):  # an empty page is drawn already
            return [gr.skip()] * 9
        if fresh and back:  # the page may not have drawn yet what was brought back
            across, upwards, run = (back.get(field) for field in ("across", "upwards", "run"))
        shared = side_by_side.shared(folders)
        usual = side_by_side.usual(shared) or (None, None)
        axes = [mine if mine in shared else first for mine, first in zip((across, upwards), usual, strict=True)]
        rows = side_by_side.table(folders)
        table = side_tables.scores([f.name for f in folders], rows) if rows else side_tables.unscored(folders)
        plot = side_tables.plane(folders, *axes)
        single = gr.update(choices=names, value=run if run in names else next(iter(names), None))
        lists = [gr.update(choices=shared, value=axis) for axis in axes]
        drawn = [table, gr.update(visible=bool(plot)), *lists, plot, side_tables.strip(folders, here.runs)]
        return [now, said, *drawn, single if fresh else gr.skip()]

    def folders(self, here: Place, names: list[str] | None) -> list[Path]:
        """The folders of the chosen runs that are there."""
        known = {run.name for run in here.store.list()}
        return [run_of(here.runs, name).folder for name in names or [] if name in known]

    def drawn(self, names: list[str], across: str | None, upwards: str | None, request: gr.Request) -> str:
        """The plot over other scores."""
        return side_tables.plane(self.folders(self.place(request), names), across, upwards)

    def opened(self, name: str | None, prompt: Any, seed: str | None, back: dict[str, Any], request: gr.Request) -> Any:
        """Checkpoints and report of a run, at the prompt and seed that were looked at, where it has them."""
        here = self.place(request)
        if not name or name not in [run.name for run in here.store.list()]:
            hidden = gr.update(visible=False)
            return ["", hidden, gr.skip(), gr.skip(), "", hidden, "", []]
        folder = run_of(here.runs, name).folder
        choice, report = side_choice.read(folder), folder / "report.html"
        prompts, seeds = [(choice.asked(at), at) for at in range(len(choice.prompts))], choice.seeds()
        prompt = next((one for one in (prompt, back.get("prompt")) if one in range(len(prompts))), 0)
        seed = next((one for one in (seed, back.get("seed")) if one in seeds), next(iter(seeds), None))
        return [
            choice.said() or UNSCORED.format(name),
            gr.update(visible=bool(choice.candidates)),
            gr.update(choices=prompts, value=prompt if prompts else None),
            gr.update(choices=seeds, value=seed),
            side_tables.grid(choice, here.runs, prompt, seed or ""),
            gr.update(value=str(report) if report.is_file() else None, visible=report.is_file()),
            side_tables.frame(report) or side_tables.note(f"{name} has no report yet: Evaluate writes it."),
            stamp(folder),
        ]

    def opened_again(
        self,
        name: str | None,
        prompt: Any,
        seed: str | None,
        back: dict[str, Any],
        drawn: list[Any],
        request: gr.Request,
    ) -> Any:
        """As `opened`, where an evaluation has written the run's report or the choice of its checkpoints meanwhile."""
        if not drawn or not name or stamp(run_of(self.place(request).runs, name).folder) == drawn:
            return [gr.skip()] * 8
        return self.opened(name, prompt, seed, back, request)

    def redrawn(self, name: str | None, prompt: Any, seed: str | None, request: gr.Request) -> str:
        """The grid for another prompt or seed."""
        here = self.place(request)
        choice = side_choice.read(run_of(here.runs, name or "").folder)
        prompt = prompt if prompt in range(len(choice.prompts)) else 0
        return side_tables.grid(choice, here.runs, prompt, seed if seed in choice.seeds() else "")

    def start(self, names: list[str], quick: bool, pick: bool, request: gr.Request) -> str:
        """Puts an evaluation of each run into the queue."""
        here = self.place(request)
        here.may_write("evaluating")
        if not names:
            raise UsageError("choose the runs to evaluate first")
        gr.Info(said := evaluate(here.runs, names, here.owner, quick, pick))
        return said


def stamp(folder: Path) -> list[Any]:
    """Changes when a run's report or the choice of its checkpoints does."""
    files = [file for file in (folder / "report.html", folder / "choice.json") if file.is_file()]
    return [folder.name, *(file.stat().st_mtime_ns for file in files)]


def build(place: Where) -> Tab:
    """The tab, inside the page that is being built."""
    tab = Tab(place)
    tab.bind()
    return tab
