"""The Train tab's pictures at work: dropped, named, looked at, captioned and taken out again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from studio.ui import data_uploads, train_actions, train_look
from studio.ui import draft as drafts
from studio.ui.draft import Draft
from studio.ui.tab_train_parts import Parts, looked, pictured
from studio.ui.train_look import FOLDER, Looks, not_taken, plain, trouble
from studio.ui.words import toast

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
BUSY: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
IN_TURN: dict[str, Any] = {"concurrency_id": "train-draft", "concurrency_limit": 1}
LOOKS = Looks()


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose error is shown as a sentence, while everything else stays as it is."""

    @functools.wraps(handler)
    def safely(*values: Any) -> Any:
        try:
            return handler(*values)
        except Exception as error:  # the page's last line of defence: nothing shows a traceback
            raise gr.Error(toast(error), duration=20, print_exception=False) from None

    return safely


class Pictures(Parts):
    """What is done with pictures. Whatever gives another folder goes through the folder's field into the draft."""

    def bind_pictures(self) -> None:
        """From components to handlers."""
        look: dict[str, Any] = {"inputs": [self.draft, self.page, self.seen], "outputs": self.doctor}
        look |= {"trigger_mode": "always_last", "concurrency_limit": 4, **BUSY}
        self.draft.change(self.look, **look)
        self.page.release(self.look, **look)
        dropped = self.upload.upload(
            self.dropped, [self.upload, self.draft], [self.folder, self.refused, self.upload], **BUSY
        )
        written = self.write.click(self.caption, [self.draft, self.seen, self.captions], self.folder, **BUSY)
        taken = self.take.click(self.take_out, [self.out, self.draft], [self.folder, self.out], **BUSY)
        for done in (dropped, written, taken):
            # what was typed while the files were looked at is in the draft by now
            named = done.then(self.named, [self.folder, self.draft], self.faces, **IN_TURN, **QUIET)
            named.then(self.look, **look)
        self.thumbnails.select(self.pointed, self.seen, self.out, **QUIET)
        for event in (self.folder.submit, self.folder.blur):
            event(self.typed, [self.folder, self.draft], [*self.faces, self.refused], **IN_TURN, **QUIET)
        self.example.input(
            self.exemplified, [self.example, self.draft], [*self.faces, self.refused], **IN_TURN, **QUIET
        )

    def look(self, draft: Draft, page: float, seen: dict[str, Any], request: gr.Request) -> Any:
        """The data doctor's answer, where the folder or the data settings have changed."""
        found = train_look.answer(draft, self.place(request), LOOKS, int(page), seen.get("stamp")) if draft else None
        return [gr.skip()] * len(self.doctor) if found is None else looked(found, int(page))

    @told
    def dropped(self, files: list[str] | None, draft: Draft, request: gr.Request) -> Any:
        """Uploaded files go into a folder of the visitor's, more of them into the same one, or a copy of it."""
        here, draft = self.place(request), draft or drafts.fresh()
        now = str(draft["changed"].get(FOLDER) or "")
        try:
            done = data_uploads.receive(here, files or [], Path(now) if now else None)
        except Exception as error:  # the field is emptied all the same, for other files
            many = isinstance(error, data_uploads.NothingTaken) and not_taken(error.refused)
            return [gr.skip(), many or trouble(error), None]
        return [str(done.folder), "\n\n".join(filter(None, (plain(done.said), not_taken(done.refused)))), None]

    @told
    def named(self, folder: str | None, draft: Draft, request: gr.Request) -> Any:
        """A folder that was typed or uploaded; one that is refused stays in its field, to be mended."""
        draft = draft or drafts.fresh()
        if (folder or "").strip() == str(draft["changed"].get(FOLDER) or "") and FOLDER not in draft["wrong"]:
            return [gr.skip()] * len(self.faces)
        now = train_actions.chosen(draft, folder or "", self.place(request))
        return pictured(now, folder if FOLDER in now["wrong"] else None)

    def typed(self, folder: str | None, draft: Draft, request: gr.Request) -> Any:
        """As `named`; what was not taken of an upload is no matter of another folder."""
        found = self.named(folder, draft, request)
        return [*found, "" if isinstance(found[0].get("changed"), dict) else gr.skip()]

    @told
    def exemplified(self, example: str | None, draft: Draft, request: gr.Request) -> Any:
        """An example subject, or none of them. An emptied list says so too when it loses the focus: that is no wish."""
        draft = draft or drafts.fresh()
        now = str(draft["changed"].get(FOLDER) or "")
        if example is None or (not example and not now.startswith(train_actions.SUBJECT)):
            return [gr.skip()] * (len(self.faces) + 1)
        return [*pictured(train_actions.chosen(draft, example, self.place(request))), ""]

    @told
    def caption(self, draft: Draft, seen: dict[str, Any], rows: list[list[Any]], request: gr.Request) -> str:
        """Captions edited in the table go into their text files; the folder that has them then."""
        folder, said = train_look.captioned(draft, self.place(request), seen.get("shown", {}), rows)
        gr.Info(said)
        return folder

    def pointed(self, seen: dict[str, Any], event: gr.SelectData) -> Any:
        """The picture that was tapped is the one to take out."""
        names, number = list(seen.get("shown", {})), event.index
        return [names[number]] if isinstance(number, int) and number < len(names) else gr.skip()

    @told
    def take_out(self, names: list[str] | None, draft: Draft, request: gr.Request) -> Any:
        """The chosen pictures leave the upload; the folder without them."""
        folder, said = train_look.taken_out(draft or drafts.fresh(), self.place(request), names or [])
        gr.Info(said)
        return [folder, []]
