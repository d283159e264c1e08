"""The Train tab: pictures, goal, settings, plan and start; what is filled in stays in the browser."""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from studio.pipelines.errors import StudioError, UsageError
from studio.ui import data_uploads, form_widgets, presets, train_actions, train_look
from studio.ui import draft as drafts
from studio.ui.draft import Draft
from studio.ui.place import Where
from studio.ui.plan_line import AGAIN, LATER, Asked, Planner
from studio.ui.tab_train_parts import NO_COMMAND, REASON, Parts, layout
from studio.ui.train_look import FOLDER, Answer, Looks, not_taken, trouble
from studio.ui.words import shown

HIDDEN = (FOLDER,)  # chosen above the form
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
BUSY: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
IN_TURN: dict[str, Any] = {"concurrency_id": "train-draft", "concurrency_limit": 1}
LOOKS, PLANNER, ASKED = Looks(), Planner(), Asked()
atexit.register(PLANNER.close)


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose error is shown as a sentence, while everything else stays as it is."""

    @functools.wraps(handler)
    def safely(*values: Any) -> Any:
        try:
            return handler(*values)
        except Exception as error:  # the page's last line of defence: nothing shows a traceback
            raise gr.Error(shown(error), duration=20, print_exception=False) from None

    return safely


class Tab(Parts):
    """The tab at work. Every change goes into the draft; command, plan and the look at the pictures follow it."""

    def bind(self) -> None:
        """From components to handlers."""
        follow: dict[str, Any] = {"trigger_mode": "always_last"}
        self.draft.change(self.check, self.draft, [self.kept, self.command, self.toml, self.problem], **follow, **QUIET)
        self.draft.change(self.planned, self.draft, self.plan, concurrency_limit=4, **follow, **BUSY)
        self.timer.tick(self.planned_again, self.draft, self.plan, concurrency_limit=4, **QUIET)
        look: dict[str, Any] = {"inputs": [self.draft, self.page, self.seen], "outputs": self.doctor, **follow, **BUSY}
        self.draft.change(self.look, concurrency_limit=4, **look)
        self.page.release(self.look, concurrency_limit=4, **look)
        taken = self.upload.upload(
            self.dropped, [self.upload, self.draft], [self.folder, self.refused, self.upload], **BUSY
        )
        # what was typed while the files were looked at is in the draft by now
        named = taken.then(self.named, [self.folder, self.draft], self.faces, **IN_TURN, **QUIET)
        named.then(self.look, concurrency_limit=4, **look)
        for event in (self.folder.submit, self.folder.blur):
            event(self.named, [self.folder, self.draft], self.faces, **IN_TURN, **QUIET)
        self.example.input(self.exemplified, [self.example, self.draft], self.faces, **IN_TURN, **QUIET)
        written = self.write.click(self.caption, [self.draft, self.seen, self.captions], None, **BUSY)
        written.then(self.look, concurrency_limit=4, **look)
        self.goal.input(self.propose, [self.goal, self.draft, self.seen], self.faces, **IN_TURN, **BUSY)
        self.trainer.input(self.choose, [self.trainer, self.draft], self.faces, **IN_TURN, **BUSY)
        for name, tick in (("all", self.everything), ("fresh", self.fresh)):
            tick.input(functools.partial(ticked, name), [tick, self.draft], self.draft, **IN_TURN, **QUIET)
        self.reset.click(self.again, self.draft, self.faces, **QUIET)
        self.bind_presets()
        begun = self.start.click(lambda: "Starting…", None, self.status, **QUIET)
        # a step later: what was typed just before the click has reached the draft by then
        begun.then(self.begin, [self.draft, self.fresh], [self.status, self.started], **BUSY)
        self.draw()

    def bind_presets(self) -> None:
        """Save, load, delete; a TOML file from elsewhere."""
        self.load.click(self.preset_load, [self.preset, self.draft], self.faces, **QUIET)
        self.file.upload(self.preset_file, [self.file, self.draft], self.faces, **QUIET)
        self.save.click(self.preset_save, [self.preset, self.draft], self.preset, **QUIET)
        self.delete.click(self.preset_delete, self.preset, self.preset, **QUIET)

    def draw(self) -> None:
        """The form, drawn anew for another method, more settings or a search; never while somebody types in it."""
        triggers = [self.form.change, self.everything.input, self.search.change]
        inputs: Sequence[Any] = [self.draft, self.everything, self.search]
        with self.fields:

            @gr.render(inputs=inputs, triggers=triggers, trigger_mode="always_last", show_progress="hidden")
            def form(draft: Draft, everything: bool, words: str) -> None:
                if not draft:
                    return
                model = str(draft["changed"].get("model") or "")
                fields = form_widgets.sections(draft["trainer"], model, everything, words, HIDDEN)
                if not fields:
                    gr.Markdown(f"No setting of {draft['trainer']} is called so. Try another word.")
                form_widgets.form(draft, fields, self.wire)

    def wire(self, name: str, made: Any) -> None:
        """What is typed into a setting's widget goes into the draft."""

        def take(value: Any, draft: Draft) -> Any:
            now = drafts.take(draft, name, value)
            return (now, stamp()) if name == "model" else now  # another model recommends other defaults

        outputs = [self.draft, self.form] if name == "model" else [self.draft]
        # text that is pasted or filled in by the browser comes with no input event of its own
        events = [made.input, made.blur] if isinstance(made, gr.Textbox) else [made.input]
        for number, event in enumerate(events):  # one after another: two fields filled in at once are both kept
            key = f"{made.key} {number}"
            event(take, [made, self.draft], outputs, key=key, trigger_mode="always_last", **IN_TURN, **QUIET)

    def arrive(self, kept: Any, draft: Draft, request: gr.Request) -> Any:
        """The page is opened or reloaded: the browser's draft comes back, unless somebody was quicker."""
        here = self.place(request)
        names = gr.update(choices=presets.names(here), value="")
        return [*filled(draft or drafts.checked(kept)), names, train_actions.standing(here)]

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
        except Exception as error:
            yield trouble(error)

    def planned_again(self, draft: Draft, request: gr.Request) -> Iterator[Any]:
        """The plan anew, where other runs have begun or ended."""
        mine = ASKED.of(request.session_hash)
        if mine.beside is None or mine.beside == train_actions.at_work(self.place(request)):
            yield gr.skip()
        else:
            yield from self.planned(draft, request)

    def look(self, draft: Draft, page: float, seen: dict[str, Any], request: gr.Request) -> Any:
        """The data doctor's answer, where the folder or the data settings have changed."""
        if not draft:
            return [gr.skip()] * 6
        found = train_look.answer(draft, self.place(request), LOOKS, int(page), seen.get("stamp"))
        return [gr.skip()] * 6 if found is None else looked(found, int(page))

    @told
    def dropped(self, files: list[str] | None, draft: Draft, request: gr.Request) -> Any:
        """Uploaded files go into a folder of the visitor's, more of them into the same one."""
        here, draft = self.place(request), draft or drafts.fresh()
        now = str(draft["changed"].get(FOLDER) or "")
        try:
            folder, refused = data_uploads.receive(here, files or [], Path(now) if now else None)
        except StudioError as error:  # the field is emptied all the same, for other files
            gr.Warning(shown(error), duration=20)
            many = isinstance(error, data_uploads.NothingTaken) and not_taken(error.refused)
            return [gr.skip(), many or trouble(error), None]
        return [str(folder), not_taken(refused), None]

    @told
    def named(self, folder: str | None, draft: Draft, request: gr.Request) -> Any:
        """A folder that was typed or uploaded; one that is refused stays in its field, to be mended."""
        draft = draft or drafts.fresh()
        if (folder or "").strip() == str(draft["changed"].get(FOLDER) or "") and FOLDER not in draft["wrong"]:
            return [gr.skip()] * len(self.faces)
        now = train_actions.chosen(draft, folder or "", self.place(request))
        return pictured(now, folder if FOLDER in now["wrong"] else None)

    @told
    def exemplified(self, example: str | None, draft: Draft, request: gr.Request) -> Any:
        """An example subject, or none of them. An emptied list says so too when it loses the focus: that is no wish."""
        draft = draft or drafts.fresh()
        now = str(draft["changed"].get(FOLDER) or "")
        if example is None or (not example and not now.startswith(train_actions.SUBJECT)):
            return [gr.skip()] * len(self.faces)
        return pictured(train_actions.chosen(draft, example, self.place(request)))

    @told
    def caption(self, draft: Draft, seen: dict[str, Any], rows: list[list[Any]], request: gr.Request) -> None:
        """Captions edited in the table go into their text files."""
        gr.Info(train_look.captioned(draft, self.place(request), seen.get("shown", {}), rows))

    @told
    def propose(self, key: str, draft: Draft, seen: dict[str, Any], request: gr.Request) -> Any:
        """The method for a goal, with its reason."""
        return filled(train_actions.proposed(draft or drafts.fresh(), key, seen.get("count"), self.place(request)))

    @told
    def choose(self, trainer: str, draft: Draft) -> Any:
        """A method that was chosen directly."""
        return filled(train_actions.method(draft or drafts.fresh(), trainer))

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
        return filled(presets.read(Path(file), Path(file).name, self.place(request), draft))

    @told
    def preset_save(self, name: str, draft: Draft, request: gr.Request) -> Any:
        here = self.place(request)
        path = presets.save(here, name or "", draft or drafts.fresh())
        gr.Info(f"Saved as {path.stem}. `studio train {path.name}` in {path.parent.name} does the same.")
        return gr.update(choices=presets.names(here), value=path.stem)

    @told
    def preset_delete(self, name: str, request: gr.Request) -> Any:
        here = self.place(request)
        presets.delete(here, name or "")
        return gr.update(choices=presets.names(here), value="")


def filled(draft: Draft) -> list[Any]:
    """The values of `Parts.faces` for a draft."""
    folder = str(draft["changed"].get(FOLDER) or "")
    example = folder if folder.startswith(train_actions.SUBJECT) else None
    view = [draft["view"]["all"], draft["view"]["fresh"]]
    reason = draft["reason"] or REASON
    return [draft, draft["goal"] or None, draft["trainer"], folder, example, reason, *view, stamp()]


def pictured(draft: Draft, refused: str | None = None) -> list[Any]:
    """As `filled` for another folder, which no widget of the form shows: what is being typed there stays.

    refused: a folder's name that stays in its field all the same.
    """
    found = filled(draft)
    return [draft, *found[1:3], found[3] if refused is None else refused, found[4], *[gr.skip()] * 4]


def ticked(name: str, value: bool, draft: Draft) -> Draft:
    """The draft with a tick that changes no setting, so that it outlives a reload."""
    draft = draft or drafts.fresh()
    return {**draft, "view": {**draft["view"], name: value}}


def stamp() -> str:
    """Another word each time."""
    return str(time.monotonic_ns())


def looked(found: Answer, page: int) -> list[Any]:
    """The values of `Parts.doctor` for an answer."""
    there = bool(found.rows)
    return [
        {"stamp": found.stamp, "shown": found.shown, "count": found.count},
        found.words,
        gr.update(value=found.thumbnails, visible=there),
        gr.update(maximum=max(2, found.pages), value=min(page, found.pages), visible=found.pages > 1),
        gr.update(value=found.rows, visible=there),
        gr.update(visible=there),
    ]


def build(place: Where, page: gr.Blocks | None = None) -> Tab:
    """The tab, inside the page that is being built. page: whose opening brings the browser's draft back."""
    tab = Tab(**layout(place))
    tab.bind()
    page = page or Context.root_block
    if page is not None:
        page.load(tab.arrive, [tab.kept, tab.draft], [*tab.faces, tab.preset, tab.status], **IN_TURN, **QUIET)
    return tab
