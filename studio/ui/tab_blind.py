"""The blind test in the Compare tab: two pictures whose side is hidden, three answers, and the sides at the end."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context

from studio.ui import blind, kept
from studio.ui.blind import Trial
from studio.ui.blind_pairs import Side, pairs
from studio.ui.compare_jobs import offered
from studio.ui.library import run_of
from studio.ui.place import Where
from studio.ui.tab_answers import BUSY, QUIET, told

NAME = "blind"  # of what the browser remembers
FIELDS = ("run-1", "kind-1", "run-2", "kind-2", "count", "trial")
COUNT = 4, 60  # pairs
ADAPTER, BASE = "adapter", "base model"
LABELS = {"left": "Left is better", "same": "No difference", "right": "Right is better"}


class Panel:
    """The panel's components. trial: the key of the test on the disk; the browser remembers it and the fields."""

    def __init__(self, place: Where) -> None:
        self.place, self.number = place, gr.State(-1)
        self.trial, self.kept = gr.Textbox(visible=False), gr.JSON(visible=False)
        with gr.Accordion("Blind test with your own eyes", open=False, elem_id="blind"):
            with gr.Row():
                self.sides = [self.side(1), self.side(2)]
                self.count = gr.Slider(*COUNT, 20, step=1, label="Pairs", elem_id="blind-count")
            self.begin = gr.Button("Begin a test", elem_id="blind-begin", size="sm")
            self.told = gr.Markdown(elem_id="blind-told")
            with gr.Column(visible=False, elem_id="blind-pair") as self.pair:
                self.layout()

    def side(self, at: int) -> tuple[gr.Dropdown, gr.Radio]:
        """One side: a run's adapter, or the model that it was trained on."""
        with gr.Column(min_width=200):
            run = gr.Dropdown([], value=None, label=f"Side {at}: run", elem_id=f"blind-run-{at}")
            kind = gr.Radio([ADAPTER, BASE], value=ADAPTER, label=f"Side {at}: of it", elem_id=f"blind-kind-{at}")
        return run, kind

    def layout(self) -> None:
        """The pair that is asked about."""
        look: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "height": 340}
        with gr.Row():
            self.left = gr.Image(label="Left", elem_id="blind-left", **look)
            self.right = gr.Image(label="Right", elem_id="blind-right", **look)
        with gr.Row():
            self.answers = {key: gr.Button(label, elem_id=f"blind-choose-{key}") for key, label in LABELS.items()}
        self.stop = gr.Button("End the test and tell the sides", size="sm", elem_id="blind-end")

    def bind(self) -> None:
        """The buttons act; a reload goes on with the test that was begun."""
        (one, first), (two, second) = self.sides
        outs = [self.trial, self.number, self.told, self.pair, self.left, self.right]
        asked = [one, first, two, second, self.count]
        begun = self.begin.click(told(self.start), asked, outs, **BUSY)
        for key, button in self.answers.items():
            button.click(told(self.answering(key)), [self.trial, self.number], outs, **QUIET)
        self.stop.click(told(self.end), self.trial, outs, **QUIET)
        for run in (one, two):
            run.focus(told(self.names), None, run, **QUIET)
        keep: dict[str, Any] = {"js": kept.keep(NAME, FIELDS), **QUIET}
        fields = [*asked, self.trial]
        begun.then(None, fields, None, **keep)
        gr.on([field.change for field in asked], None, fields, None, **keep)
        if Context.root_block is not None:
            load = Context.root_block.load
            came = load(told(self.arrive), self.kept, [*asked, *outs], js=kept.kept(NAME), **QUIET)
            came.then(None, js=kept.taken(NAME), **QUIET)

    def arrive(self, found: Any, request: gr.Request) -> Any:
        """A page that was just opened: the sides that were chosen, as far as they are there, and the test."""
        here = self.place(request)
        there, known = [run.name for run in here.store.list()], offered(here.runs)
        fields: list[Any] = []
        if not found:  # nothing was kept: what somebody chooses meanwhile stays
            return [*[gr.update(choices=known), gr.skip()] * 2, *[gr.skip()] * 7]
        for at in ("1", "2"):
            name, kind = kept.word(found, f"run-{at}"), kept.word(found, f"kind-{at}")
            fields += [gr.update(choices=known, value=name if name in there else None)]
            fields += [kind if kind in (ADAPTER, BASE) else ADAPTER]
        gone = kept.gone([kept.word(found, "run-1"), kept.word(found, "run-2")], there, "choose others")
        drawn = self.again(kept.word(found, "trial"), request)
        return [*fields, kept.whole(found, "count", *COUNT, 20), *drawn[:2], drawn[2] or gone, *drawn[3:]]

    def names(self, request: gr.Request) -> Any:
        """The runs with something to show; what is chosen stays as it is, also while this is asked."""
        return gr.update(choices=offered(self.place(request).runs))

    def start(self, one: str, first: str, two: str, second: str, count: float, request: gr.Request) -> Any:
        """A new test."""
        here = self.place(request)
        here.may_write("a blind test")
        sides = Side(one or "", first == BASE), Side(two or "", second == BASE)
        runs = run_of(here.runs, sides[0].run), run_of(here.runs, sides[1].run)
        found = pairs(runs[0], sides[0], runs[1], sides[1])
        return self.shown(blind.begin(here.runs, sides, found, int(count)))

    def answering(self, choice: str) -> Any:
        """A button's handler."""

        def handle(key: str, number: int, request: gr.Request) -> Any:
            here = self.place(request)
            here.may_write("a blind test")
            return self.shown(blind.answer(here.runs, key, number, choice))

        return handle

    def end(self, key: str, request: gr.Request) -> Any:
        """Tells the sides now."""
        here = self.place(request)
        here.may_write("a blind test")
        return self.shown(blind.reveal(here.runs, key))

    def again(self, key: str, request: gr.Request) -> Any:
        """The test that this browser began, if it is still there."""
        known = {trial.key: trial for trial in blind.trials(self.place(request).runs)}
        return self.shown(known[key]) if key in known else ["", -1, "", gr.update(visible=False), None, None]

    def shown(self, trial: Trial) -> Any:
        """The next pair, or the result."""
        asked = trial.question()
        if asked is None:
            return [trial.key, -1, f"**{trial.verdict()}**", gr.update(visible=False), None, None]
        words = f"Pair {asked.number + 1} of {len(trial.answers)}: *{asked.prompt.replace('*', '')}*"
        return [trial.key, asked.number, words, gr.update(visible=True), str(asked.left), str(asked.right)]


def build(place: Where) -> Panel:
    """The panel, inside the page that is being built."""
    panel = Panel(place)
    panel.bind()
    return panel
