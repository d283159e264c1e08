"""The Train tab: pictures, goal, settings, plan and start; what is filled in stays in the browser."""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from studio.pipelines.errors import UsageError
from studio.ui import draft as drafts
from studio.ui import form_widgets, presets, train_actions
from studio.ui.draft import Draft
from studio.ui.place import Where
from studio.ui.plan_line import AGAIN, LATER, Asked, Page, Planner
from studio.ui.tab_answers import ask
from studio.ui.tab_train_parts import NO_COMMAND, filled, layout, stamp
from studio.ui.tab_train_pictures import BUSY, IN_TURN, QUIET, Pictures, told
from studio.ui.train_look import FOLDER, trouble

HIDDEN = (FOLDER,)  # chosen above the form
DRAWING: dict[str, Any] = {"concurrency_id": "train-form", "concurrency_limit": 1, "show_progress": "hidden"}
TYPING = 0.6  # seconds between two letters, before a plan is worth making
PLANNER, ASKED = Planner(), Asked()
atexit.register(PLANNER.close)


class Tab(Pictures):
    """The tab at work. Every change goes into the draft; command, plan and the look at the pictures follow it."""

    def bind(self, page: gr.Blocks | None = None) -> None:
        """From components to handlers. page: whose opening draws the form."""
        follow: dict[str, Any] = {"trigger_mode": "always_last"}
        self.draft.change(self.check, self.draft, [self.kept, self.command, self.toml, self.problem], **follow, **QUIET)
        self.draft.change(self.planned, self.draft, self.plan, concurrency_limit=4, **follow, **BUSY)
        self.timer.tick(self.planned_again, self.draft, self.plan, concurrency_limit=4, **QUIET)
        self.bind_pictures()
        self.goal.input(self.propose, [self.goal, self.draft, self.seen], self.faces, **IN_TURN, **BUSY)
        self.trainer.input(self.choose, [self.trainer, self.draft], self.faces, **IN_TURN, **BUSY)
        for name, tick in (("all", self.everything), ("fresh", self.fresh)):
            tick.input(functools.partial(ticked, name), [tick, self.draft], self.draft, **IN_TURN, **QUIET)
        self.reset.click(self.again, self.draft, self.faces, **QUIET)
        self.bind_presets()
        begun = self.start.click(lambda: "Starting…", None, self.status, **QUIET)
        # a step later: what was typed just before the click has reached the draft by then
        begun.then(self.begin, [self.draft, self.fresh], [self.status, self.started], **BUSY)
        self.draw(page)

    def bind_presets(self) -> None:
        """Save, load, delete; a TOML file from elsewhere."""
        self.load.click(self.preset_load, [self.preset, self.draft], self.faces, **QUIET)
        self.file.upload(self.preset_file, [self.file, self.draft], self.faces, **QUIET)
        self.save.click(self.preset_save, [self.preset, self.draft], self.preset, **QUIET)
        sides = [self.delete, self.surely, self.keep]
        self.delete.click(self.preset_ask, self.preset, sides, **QUIET)
        self.keep.click(lambda: ask(False), None, sides, **QUIET)
        self.preset.change(lambda: ask(False), None, sides, **QUIET)  # the question was about another one
        self.surely.click(self.preset_delete, self.preset, self.preset, **QUIET)

    def draw(self, page: gr.Blocks | None) -> None:
        """The form, drawn anew for another method, more settings or a search; never while somebody types in it.

        One after another: of two drawings at once each would change what gradio reads for the other. When the page is
        opened there is no draft yet, and the browser's is drawn without waiting for it.
        """
        opened = [] if page is None else [page.load]
        triggers = [*opened, self.form.change, self.everything.input, self.search.change]
        inputs: Sequence[Any] = [self.draft, self.kept, self.everything, self.search]
        with self.fields:

            @gr.render(inputs=inputs, triggers=triggers, trigger_mode="always_last", **DRAWING)
            def form(draft: Draft, kept: Any, everything: bool, words: str) -> None:
                if not draft:
                    draft = drafts.checked(kept)
                    everything = draft["view"]["all"]
                model = str(draft["changed"].get("model") or "")
                fields = form_widgets.sections(draft["trainer"], model, everything, words, HIDDEN)
                if not fields:
                    said = f"No setting of {draft['trainer']} is called so. Try another word."
                    gr.Markdown(said, elem_id="train-none")
                form_widgets.form(draft, fields, self.wire)

    def wire(self, name: str, made: Any) -> None:
        """What is typed into a setting's widget goes into the draft."""

        def take(value: Any, draft: Draft) -> Any:
            now = drafts.take(draft, name, value)
            if name != "model":
                return now
            same = bool(draft) and draft["changed"].get(name) == now["changed"].get(name)  # a list says it twice
            return now, gr.skip() if same else stamp()  # another model recommends other defaults

        def left(value: Any, draft: Draft) -> Any:
            if draft and value == made.value != drafts.shown(
                draft, name
            ):  # what was typed was drawn over: it is drawn again
                return draft, stamp()
            now = take(value, draft)
            return now if name == "model" else (now, gr.skip())

        both = [self.draft, self.form]
        # what is pasted or filled in by the browser, and an entry typed into a list, has no input event of its own
        many = isinstance(made, gr.Dropdown) and made.multiselect
        events = [(made.input, take, both if name == "model" else [self.draft])]
        events += [(made.blur, left, both)] if isinstance(made, gr.Textbox) else []
        events += [(event, take, [self.draft]) for event in ((made.blur, made.change) if many else ())]
        for number, (event, handler, outputs) in enumerate(events):  # in turn: two fields at once are both kept
            key = f"{made.key} {number}"
            event(handler, [made, self.draft], outputs, key=key, trigger_mode="always_last", **IN_TURN, **QUIET)

    def arrive(self, kept: Any, draft: Draft, request: gr.Request) -> Any:
        """The page is opened or reloaded: the browser's draft comes back, unless somebody was quicker."""
        here = self.place(request)
        names = gr.update(choices=presets.names(here), value="")
        faces = filled(draft) if draft else [*filled(drafts.checked(kept))[:-1], gr.skip()]  # the form is drawn by then
        start = gr.update(interactive=not train_actions.closed(here))
        return [*faces, names, train_actions.standing(here), start]

    def check(self, draft: Draft, request: gr.Request) -> Any:
        """The command and the TOML of the draft, or what is wrong with it."""
        if not draft:
            return [gr.skip()] * 4
        ASKED.of(request.session_hash).draft = draft
        try:
            command, toml, wrong = train_actions.check(draft, self.place(request))
        except Exception as error:
            command, toml, wrong = "", "", trouble(error)
        return [draft, command or NO_COMMAND, toml or NO_COMMAND, wrong]

    def planned(self, draft: Draft, request: gr.Request) -> Iterator[Any]:
        """The plan beside the start button; what another draft's figures were is no answer any more."""
        if not draft:
            yield gr.skip()
            return
        try:
            here, mine = self.place(request), ASKED.of(request.session_hash)
            beside = train_actions.at_work(here)
            for said in train_actions.planned(draft, here, PLANNER, beside):
                yield said if mine.draft in ({}, draft) else AGAIN
                mine.beside = {AGAIN: None, LATER: (LATER,)}.get(said, beside)  # what is LATER is asked again
                if said == AGAIN and overtaken(mine, draft):
                    return
        except Exception as error:
            yield trouble(error)

    def planned_again(self, draft: Draft, request: gr.Request) -> Iterator[Any]:
        """The plan anew, where other runs have begun or ended."""
        mine = ASKED.of(request.session_hash)
        if mine.beside is None or mine.beside == train_actions.at_work(self.place(request)):
            yield gr.skip()
        else:
            yield from self.planned(draft, request)

    @told
    def propose(self, key: str, draft: Draft, seen: dict[str, Any], request: gr.Request) -> Any:
        """The method for a goal, with its reason."""
        before = draft or drafts.fresh()
        return filled(train_actions.proposed(before, key, seen.get("count"), self.place(request)), before)

    @told
    def choose(self, trainer: str, draft: Draft) -> Any:
        """A method that was chosen directly."""
        before = draft or drafts.fresh()
        return filled(train_actions.method(before, trainer), before)

    @told
    def again(self, draft: Draft, request: gr.Request) -> Any:
        """All settings at their defaults; the pictures stay, and what the goal needs."""
        return filled(train_actions.reset(draft or drafts.fresh(), HIDDEN, self.place(request)))

    @told
    def begin(self, draft: Draft, fresh: bool, request: gr.Request) -> Any:
        """Puts the run into the queue."""
        try:
            if not draft:
                raise UsageError("the form is still being filled in: press Start again in a moment")
            run, said = train_actions.start(draft, self.place(request), fresh)
        except Exception as error:
            return trouble(error), gr.skip()
        return said, (run, stamp())

    @told
    def preset_load(self, name: str, draft: Draft, request: gr.Request) -> Any:
        return filled(presets.load(self.place(request), name or "", draft))

    @told
    def preset_file(self, file: str, draft: Draft, request: gr.Request) -> Any:
        return filled(presets.read(Path(file), Path(file).name, self.place(request), draft, whole=True))

    @told
    def preset_save(self, name: str, draft: Draft, request: gr.Request) -> Any:
        here = self.place(request)
        path = presets.save(here, name or "", draft or drafts.fresh())
        gr.Info(f"Saved as {path.stem}. `studio train {path.name}` in {path.parent.name} does the same.")
        return gr.update(choices=presets.names(here), value=path.stem)

    @told
    def preset_ask(self, name: str, request: gr.Request) -> Any:
        presets.there(self.place(request), name or "")  # what is not there needs no question
        return ask(True)

    @told
    def preset_delete(self, name: str, request: gr.Request) -> Any:
        here = self.place(request)
        presets.delete(here, name or "")
        return gr.update(choices=presets.names(here), value="")


def overtaken(mine: Page, draft: Draft) -> bool:
    """Whether a page wants the plan of another draft after a moment: somebody is typing."""
    time.sleep(TYPING)
    return mine.draft not in ({}, draft)


def ticked(name: str, value: bool, draft: Draft) -> Draft:
    """The draft with a tick that changes no setting, so that it outlives a reload."""
    draft = draft or drafts.fresh()
    return {**draft, "view": {**draft["view"], name: value}}


def build(place: Where, page: gr.Blocks | None = None) -> Tab:
    """The tab, inside the page that is being built. page: whose opening brings the browser's draft back."""
    tab = Tab(**layout(place))
    page = page or Context.root_block
    tab.bind(page)
    if page is not None:
        there = [*tab.faces, tab.preset, tab.status, tab.start]
        page.load(tab.arrive, [tab.kept, tab.draft], there, **IN_TURN, **QUIET)
    return tab
