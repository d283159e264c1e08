"""What can be done with a run of the library: a note, an export, a push to the Hub, the trash and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from studio.pipelines.errors import UsageError
from studio.ui import library_export, library_jobs, library_notes, library_push, library_trash, space
from studio.ui.library import run_of
from studio.ui.place import Where
from studio.ui.tab_answers import BUSY, QUIET, ask, told
from studio.ui.words import EMPTY, shown

SMALL: dict[str, Any] = {"size": "sm", "min_width": 140}
SWEEP = "Move {} that never began to the trash"
SIGNED = "Empty: by your sign-in, which may write to repositories that this Space makes"


class Acts:
    """Components below the chosen run, and what they do. chosen: the name of that run; sweep: the button of the list
    that moves what never began to the trash.
    """

    def __init__(self, place: Where, chosen: gr.State, sweep: gr.Button) -> None:
        self.place, self.chosen, self.sweep = place, chosen, sweep
        self.note = gr.Textbox(label="Notes (kept in notes.txt of the run)", lines=3, elem_id="library-note")
        self.save = gr.Button("Save note", elem_id="library-note-save", **SMALL)
        self.kinds = gr.CheckboxGroup([], label="Export", elem_id="library-kinds")
        with gr.Row():
            self.export = gr.Button("Make the zip", elem_id="library-export", variant="primary", **SMALL)
            self.zip = gr.DownloadButton("Download", visible=False, elem_id="library-zip", **SMALL)
        with gr.Accordion("Push to the Hugging Face Hub", open=False, elem_id="library-hub"):
            self.hub()
        with gr.Row():
            self.delete = gr.Button("Delete", elem_id="library-delete", variant="stop", **SMALL)
            self.surely = gr.Button("Move it to the trash", visible=False, elem_id="library-delete-yes", **SMALL)
            self.keep = gr.Button("Keep it", visible=False, elem_id="library-delete-no", **SMALL)

    def hub(self) -> None:
        """Repository and token; the token lives in its field until Push is pressed."""
        with gr.Row():
            self.repo = gr.Textbox(label="Repository", placeholder="USER/NAME", elem_id="library-repo")
            self.token = gr.Textbox(
                label="Token with write access (used once, kept nowhere)", type="password", elem_id="library-token",
                info=SIGNED if space.here() is not None else None,
            )  # fmt: skip
        self.private = gr.Checkbox(True, label="Private repository", elem_id="library-private")
        self.push = gr.Button("Push", elem_id="library-push", **SMALL)
        self.pushed = gr.Markdown(elem_id="library-pushed")

    def trash(self) -> None:
        """What was deleted."""
        with gr.Accordion("Trash", open=False, elem_id="library-trash"):
            self.gone = gr.Dropdown([], value=None, label="Deleted runs", info=EMPTY["trash"], elem_id="library-gone")
            with gr.Row():
                self.restore = gr.Button("Restore", elem_id="library-restore", **SMALL)
                self.sure = gr.Checkbox(False, label="Yes, for good", elem_id="library-sure")
                self.empty = gr.Button("Delete for good", elem_id="library-empty", variant="stop", **SMALL)

    def bind(self, then: Callable[[Any], Any], details: gr.Column) -> None:
        """The buttons act. then: lets the list look at once; details: what a deleted run's page closes."""
        self.save.click(told(self.keep_note), [self.chosen, self.note], None, **QUIET)
        self.export.click(told(self.pack), [self.chosen, self.kinds], self.zip, **BUSY)
        self.chosen.change(lambda: gr.update(visible=False), None, self.zip, **QUIET)
        asked = [self.chosen, self.kinds, self.repo, self.token, self.private]
        sent = self.push.click(told(self.upload), asked, self.pushed, **BUSY)
        sent.then(lambda: "", None, self.token, **QUIET)  # also after an error
        sides = [self.delete, self.surely, self.keep]
        self.delete.click(lambda: ask(True), None, sides, **QUIET)
        self.keep.click(lambda: ask(False), None, sides, **QUIET)
        thrown = self.surely.click(told(self.throw), self.chosen, [self.chosen, details, *sides, self.gone], **QUIET)
        back = self.restore.click(told(self.bring_back), self.gone, self.gone, **QUIET)
        end = self.empty.click(told(self.erase), [self.gone, self.sure], [self.gone, self.sure], **QUIET)
        swept = self.sweep.click(told(self.throw_idle), None, self.gone, **QUIET)
        for done in (thrown, back, end, swept):
            then(done)

    def keep_note(self, name: str, text: str, request: gr.Request) -> None:
        """Saves the note."""
        here = self.place(request)
        here.may_write("writing notes")
        library_notes.write(run_of(here.runs, name), text or "")
        gr.Info("The note is saved.")

    def pack(self, name: str, kinds: list[str], request: gr.Request) -> Any:
        """Makes the zip and offers it."""
        here = self.place(request)
        file = library_export.pack(run_of(here.runs, name), kinds, here.runs)
        size = file.stat().st_size / 2**20
        return gr.update(value=str(file), label=f"Download {file.name} ({size:.1f} MiB)", visible=True)

    def upload(self, name: str, kinds: list[str], repo: str, token: str, private: bool, request: gr.Request) -> str:
        """Pushes the export."""
        here = self.place(request)
        here.may_write("pushing to the Hub")
        token = token or (space.token(request) if here.space else "")  # of who is signed in
        try:
            address = library_push.push(run_of(here.runs, name), kinds, repo or "", token, private)
        except UsageError as error:  # stays to be read: a toast goes while somebody looks at the Hub
            gr.Warning(said := f"Not pushed. {shown(error)}")
            return said
        return f"Pushed to [{repo.strip()}]({address})."

    def throw(self, name: str, request: gr.Request) -> Any:
        """Moves the run to the trash."""
        here = self.place(request)
        here.may_write("deleting a run")
        library_trash.throw(here.runs, name)
        gr.Info(f"{name} is in the trash.")
        return ["", gr.update(visible=False), *ask(False), self.thrown(request)]

    def throw_idle(self, request: gr.Request) -> Any:
        """Moves the runs that never began to the trash."""
        here = self.place(request)
        here.may_write("deleting runs")
        gone, left = library_jobs.sweep(here.runs)
        if gone:
            gr.Info(f"In the trash, from where they can be restored: {', '.join(gone)}.")
        for reason in left:
            gr.Warning(shown(UsageError(reason)))
        return self.thrown(request)

    def bring_back(self, key: str | None, request: gr.Request) -> Any:
        """Restores the run that is chosen in the trash."""
        here = self.place(request)
        here.may_write("restoring a run")
        gr.Info(f"{library_trash.restore(here.runs, key or '')} is back.")
        return self.thrown(request)

    def erase(self, key: str | None, sure: bool, request: gr.Request) -> Any:
        """Deletes the run that is chosen in the trash for good."""
        here = self.place(request)
        here.may_write("emptying the trash")
        if not (key and sure):
            gr.Info("Choose a deleted run, and tick `Yes, for good`: it cannot be brought back.")
        else:
            library_trash.empty(here.runs, key)
        return self.thrown(request), False

    def thrown(self, request: gr.Request) -> Any:
        """The trash as the disk has it now."""
        rows = library_trash.thrown(self.place(request).runs)
        said = EMPTY["thrown" if rows else "trash"]
        return gr.update(choices=[(row.line(), row.key) for row in rows], value=None, info=said)


def runs_of(count: int) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} run{'s' * (count != 1)}"
