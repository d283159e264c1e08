"""The Library tab: all runs as thumbnails, searched and paged; one run with its pictures, note, export and trash."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context

from studio.ui.library_view import Listing, Look, ahead, listing, look
from studio.ui.place import Where
from studio.ui.tab_answers import BUSY, QUIET, told
from studio.ui.tab_library_acts import Acts

EVERY = 4.0  # seconds between two looks at the disk
SMALL: dict[str, Any] = {"size": "sm", "min_width": 120, "interactive": False}
BARE: dict[str, Any] = {"allow_preview": False, "interactive": False, "object_fit": "contain", "fit_columns": False}
CSS = """#library-style { display: none; }
#library-runs, #library-pictures { min-height: 0; }
:is(#library-runs, #library-pictures) :is(.grid-wrap, .gallery-container) { min-height: 0 !important; }
:is(#library-runs, #library-pictures) .grid-container {  /* as many as fit, also on a phone */
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)) !important; }
:is(#library-runs, #library-pictures) .caption-label { left: 0; right: 0; bottom: 0; max-width: none; border: 0;
  border-radius: 0; padding: .15rem .4rem; text-align: left; white-space: normal; overflow-wrap: anywhere;
  font-size: .7rem; line-height: 1.25; max-height: 2.8em; overflow: hidden; opacity: .92; }
#tab-library button.sm { flex: 0 0 auto; width: auto; align-self: flex-start; padding-inline: 1rem; }"""


class Tab:
    """The tab's components. chosen: the name of the run that is looked at; seen, shown: what the page has drawn."""

    def __init__(self, place: Where) -> None:
        self.place = place
        self.seen, self.shown, self.chosen = gr.State({}), gr.State({}), gr.State("")
        self.timer = gr.Timer(EVERY)
        words = "name, method, model, subject, note or state"
        gr.HTML(f"<style>{CSS}</style>", elem_id="library-style", container=False, padding=False)
        self.search = gr.Textbox(label="Search runs", placeholder=words, elem_id="library-search")
        self.label = gr.Markdown(elem_id="library-count")
        self.runs = gr.Gallery(
            label="Runs",
            elem_id="library-runs",
            columns=6,
            height="auto",
            show_label=False,
            buttons=[],
            **BARE,
        )
        with gr.Row(visible=False) as self.turning:
            self.back = gr.Button("Previous page", elem_id="library-previous", **SMALL)
            self.on = gr.Button("Next page", elem_id="library-next", **SMALL)
        with gr.Column(visible=False, elem_id="library-run") as self.details:
            self.about = gr.Markdown(elem_id="library-about")
            self.layout()
            self.acts = Acts(place, self.chosen)
        self.acts.trash()

    def layout(self) -> None:
        """The chosen run's pictures."""
        self.count = gr.Markdown(elem_id="library-pictures-count")
        self.pictures = gr.Gallery(
            label="Pictures", elem_id="library-pictures", columns=5, height=420, buttons=[], show_label=False, **BARE
        )
        with gr.Row(visible=False) as self.leafing:
            self.before = gr.Button("Previous pictures", elem_id="library-pictures-previous", **SMALL)
            self.after = gr.Button("Next pictures", elem_id="library-pictures-next", **SMALL)
        self.picture = gr.Image(
            label="The whole picture; dropped into Sample it restores its settings", elem_id="library-picture",
            type="filepath", interactive=False, visible=False, buttons=["download", "fullscreen"],
        )  # fmt: skip

    def bind(self) -> None:
        """The clock and every wish look at the disk; what has not changed is not drawn again."""
        ins, outs = [self.search, self.seen], [self.seen, self.runs, self.label, self.turning, self.back, self.on]
        self.timer.tick(told(self.list_again), ins, outs, **QUIET)
        self.search.change(told(self.list_first), ins, outs, trigger_mode="always_last", **QUIET)
        self.back.click(told(self.list_before), ins, outs, **QUIET)
        self.on.click(told(self.list_after), ins, outs, **QUIET)
        pages = [self.shown, self.count, self.pictures, self.leafing, self.before, self.after]
        facts = [self.about, self.acts.note, self.acts.kinds]
        opened = [self.chosen, self.details, self.picture, *facts, *pages]
        self.runs.select(told(self.choose), self.seen, opened, **BUSY)
        self.before.click(told(self.pictures_before), [self.chosen, self.shown], pages, **BUSY)
        self.after.click(told(self.pictures_after), [self.chosen, self.shown], pages, **BUSY)
        self.pictures.select(told(self.whole), self.shown, self.picture, **BUSY)
        self.acts.bind(lambda done: done.then(told(self.list_again), ins, outs, **QUIET), self.details)
        if Context.root_block is not None:
            Context.root_block.load(told(self.list_again), ins, outs, **QUIET)
            Context.root_block.load(told(self.acts.thrown), None, self.acts.gone, **QUIET)

    def list_again(self, search: str, seen: dict[str, Any], request: gr.Request) -> Any:
        """The page of runs as the disk has it now."""
        return self.listed(search, seen, seen.get("number", 1), request)

    def list_first(self, search: str, seen: dict[str, Any], request: gr.Request) -> Any:
        """The first page."""
        return self.listed(search, seen, 1, request)

    def list_before(self, search: str, seen: dict[str, Any], request: gr.Request) -> Any:
        """The page before."""
        return self.listed(search, seen, seen.get("number", 1) - 1, request)

    def list_after(self, search: str, seen: dict[str, Any], request: gr.Request) -> Any:
        """The next page."""
        return self.listed(search, seen, seen.get("number", 1) + 1, request)

    def listed(self, search: str, seen: dict[str, Any], number: int, request: gr.Request) -> Any:
        """A page of runs; nothing where this visitor's page shows it already."""
        runs = self.place(request).runs
        found = listing(runs, search or "", number)
        now = {"number": found.number, "names": found.names, "tiles": found.tiles, "label": found.label}
        if now == seen:
            return [gr.skip()] * 6
        if found.number < found.pages and (found.number, found.names) != (seen.get("number"), seen.get("names")):
            ahead(runs, search or "", found.number)
        turns = turned(found)
        tiles = gr.skip() if seen.get("tiles") == found.tiles else gr.update(value=found.tiles, selected_index=None)
        return [now, tiles, found.label, *turns]

    def choose(self, seen: dict[str, Any], request: gr.Request, event: gr.SelectData) -> Any:
        """The run of a tile that was clicked."""
        names = seen.get("names", [])
        name = names[event.index] if 0 <= event.index < len(names) else ""
        found = look(self.place(request).runs, name, 1)
        kinds = gr.update(choices=found.kinds, value=[value for _, value in found.kinds])
        facts = [found.about, found.note, kinds]
        hidden = gr.update(value=None, visible=False)
        return [name, gr.update(visible=True), hidden, *facts, *self.paged(found)]

    def pictures_before(self, name: str, shown: dict[str, Any], request: gr.Request) -> Any:
        """The page of pictures before."""
        return self.paged(look(self.place(request).runs, name, shown.get("number", 1) - 1))

    def pictures_after(self, name: str, shown: dict[str, Any], request: gr.Request) -> Any:
        """The next page of pictures."""
        return self.paged(look(self.place(request).runs, name, shown.get("number", 1) + 1))

    def paged(self, found: Look) -> list[Any]:
        """A page of the run's pictures."""
        shown = {"number": found.number, "files": found.files}
        return [shown, found.label, gr.update(value=found.tiles, selected_index=None), *turned(found)]

    def whole(self, shown: dict[str, Any], event: gr.SelectData) -> Any:
        """The picture that was clicked, at its full size."""
        files = shown.get("files", [])
        return gr.update(value=files[event.index] if 0 <= event.index < len(files) else None, visible=True)


def turned(found: Listing | Look) -> list[Any]:
    """The row that turns pages, where there are several, and its two buttons."""
    able = gr.update(interactive=found.number > 1), gr.update(interactive=found.number < found.pages)
    return [gr.update(visible=found.pages > 1), *able]


def build(place: Where) -> Tab:
    """The tab, inside the page that is being built."""
    tab = Tab(place)
    tab.bind()
    return tab
