"""The Train tab: pictures, goal, settings, plan and start; what is filled in stays in the browser."""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from studio.pipelines.errors import StudioError, UsageError
from studio.ui import data_uploads, form_widgets, presets, train_actions
from studio.ui import draft as drafts
from studio.ui.draft import Draft
from studio.ui.place import Where
from studio.ui.plan_line import Planner
from studio.ui.tab_train_parts import Parts, layout
from studio.ui.train_actions import Answer, Looks
from studio.ui.words import shown

HIDDEN = ("data.folder",)  # chosen above the form
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
BUSY: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
IN_TURN: dict[str, Any] = {"concurrency_id": "train-draft", "concurrency_limit": 1}
LOOKS, PLANNER = Looks(), Planner()
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
        look: dict[str, Any] = {"inputs": [self.draft, self.page, self.seen], "outputs": self.doctor, **follow, **BUSY}
        self.draft.change(self.look, concurrency_limit=4, **look)
        self.page.release(self.look, concurrency_limit=4, **look)
        self.upload.upload(self.dropped, [self.upload, self.draft], [*self.faces, self.upload], **BUSY)
        for event in (self.folder.submit, self.folder.blur):
            event(self.named, [self.folder, self.draft], self.faces, **IN_TURN, **QUIET)
        self.example.input(self.named, [self.example, self.draft], self.faces, **IN_TURN, **QUIET)
        written = self.write.click(self.caption, [self.draft, self.seen, self.captions], None, **BUSY)
        written.then(self.look, concurrency_limit=4, **look)
        self.goal.input(self.propose, [self.goal, self.draft, self.seen], [self.reason, *self.faces], **IN_TURN, **BUSY)
        self.trainer.input(self.choose, [self.trainer, self.draft], [self.reason, *self.faces], **IN_TURN, **BUSY)
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
        names = presets.names(self.place(request))
        return [*filled(draft or drafts.checked(kept)), gr.update(choices=names, value="")]

    def check(self, draft: Draft, request: gr.Request) -> Any:
        """The command and the TOML of the draft, or what is wrong with it."""
        if not draft:
            return [gr.skip()] * 4
        try:
            said = train_actions.check(draft, self.place(request))
        except Exception as error:
            said = ("", "", train_actions.trouble(error))
        return [draft, *said]

    def planned(self, draft: Draft, request: gr.Request) -> Any:
        """The plan beside the start button."""
        try:
            return train_actions.planned(draft, self.place(request), PLANNER) if draft else gr.skip()
        except Exception as error:
            return train_actions.trouble(error)

    def look(self, draft: Draft, page: float, seen: dict[str, Any], request: gr.Request) -> Any:
        """The data doctor's answer, where the folder or the data settings have changed."""
        if not draft:
            return [gr.skip()] * 6
        found = train_actions.answer(draft, self.place(request), LOOKS, int(page), seen.get("stamp"))
        return [gr.skip()] * 6 if found is None else looked(found, int(page))

    @told
    def dropped(self, files: list[str] | None, draft: Draft, request: gr.Request) -> Any:
        """Uploaded files go into a folder of the visitor's, more of them into the same one."""
        here, draft = self.place(request), draft or drafts.fresh()
        now = str(draft["changed"].get("data.folder") or "")
        try:
            folder, refused = data_uploads.receive(here, files or [], Path(now) if now else None)
        except StudioError as error:  # the field is emptied all the same, for other files
            gr.Warning(shown(error), duration=20)
            return [*[gr.skip()] * len(self.faces), None]
        for said in refused[:5]:
            gr.Warning(f"Not taken: {said}")
        return [*pictured(train_actions.chosen(draft, str(folder), here)), None]

    @told
    def named(self, folder: str | None, draft: Draft, request: gr.Request) -> Any:
        """A folder that was typed, or an example subject."""
        draft = draft or drafts.fresh()
        if (folder or "").strip() == str(draft["changed"].get("data.folder") or ""):
            return [gr.skip()] * len(self.faces)
        return pictured(train_actions.chosen(draft, folder or "", self.place(request)))

    @told
    def caption(self, draft: Draft, seen: dict[str, Any], rows: list[list[Any]], request: gr.Request) -> None:
        """Captions edited in the table go into their text files."""
        gr.Info(train_actions.captioned(draft, self.place(request), seen.get("shown", {}), rows))

    @told
    def propose(self, key: str, draft: Draft, seen: dict[str, Any], request: gr.Request) -> Any:
        """The method for a goal, with its reason."""
        now, said = train_actions.proposed(draft or drafts.fresh(), key, seen.get("count"), self.place(request))
        return [said, *filled(now)]

    @told
    def choose(self, trainer: str, draft: Draft) -> Any:
        """A method that was chosen directly."""
        now, said = train_actions.method(draft or drafts.fresh(), trainer)
        return [said, *filled(now)]

    @told
    def again(self, draft: Draft) -> Any:
        """All settings at their defaults; the pictures stay."""
        draft = draft or drafts.fresh()
        kept = {name: draft["changed"][name] for name in HIDDEN if name in draft["changed"]}
        return filled({**drafts.fresh(draft["trainer"]), "goal": draft["goal"], "changed": kept})

    @told
    def begin(self, draft: Draft, fresh: bool, request: gr.Request) -> Any:
        """Puts the run into the queue."""
        try:
            if not draft:
                raise UsageError("the form is still being filled in: press Start again in a moment")
            run, said = train_actions.start(draft, self.place(request), fresh)
        except Exception as error:
            return train_actions.trouble(error), gr.skip()
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
    folder = str(draft["changed"].get("data.folder") or "")
    example = folder if folder.startswith("subject:") else ""
    return [draft, draft["goal"] or None, draft["trainer"], folder, example, stamp()]


def pictured(draft: Draft) -> list[Any]:
    """As `filled` for another folder, which no widget of the form shows: what is being typed there stays."""
    return [*filled(draft)[:-1], gr.skip()]


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
        page.load(tab.arrive, [tab.kept, tab.draft], [*tab.faces, tab.preset], **IN_TURN, **QUIET)
    return tab
