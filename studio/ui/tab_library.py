"""The Library tab: all runs as thumbnails, searched and paged; one run with its pictures, note, export and trash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from studio.pipelines.errors import UsageError
from studio.ui import kept
from studio.ui.library import stamped
from studio.ui.library_view import Listing, Look, about, ahead, listing, look
from studio.ui.place import Where
from studio.ui.tab_answers import BUSY, QUIET, told
from studio.ui.tab_library_acts import SWEEP, Acts, runs_of

NAME = "library"  # of what the browser remembers
EVERY = 4.0  # seconds between two looks at the disk
SMALL: dict[str, Any] = {"size": "sm", "min_width": 120, "interactive": False}
BARE: dict[str, Any] = {"allow_preview": False, "interactive": False, "object_fit": "contain", "fit_columns": False}
CSS = """#library-style { display: none; }
#library-runs, #library-pictures { min-height: 0; }
:is(#library-runs, #library-pictures) :is(.grid-wrap, .gallery-container) { min-height: 0 !important; }
#library-runs .grid-wrap { height: auto !important; max-height: none !important; overflow: visible; }
@media (max-width: 640px) {  /* a page that scrolls has no box in it that scrolls too */
  #library-pictures { height: auto !important; }
  #library-pictures .grid-wrap { height: auto !important; max-height: none !important; overflow: visible; } }
:is(#library-runs, #library-pictures) .grid-container {  /* as many as fit, also on a phone */
  grid-template-columns: repeat(auto-fill, minmax(min(8.5rem, 45%), 1fr)) !important; }
:is(#library-runs, #library-pictures) .thumbnail-item { aspect-ratio: auto; height: auto; display: flex;
  flex-direction: column; justify-content: flex-start; }
:is(#library-runs, #library-pictures) .thumbnail-item img { aspect-ratio: 1; height: auto; }
:is(#library-runs, #library-pictures) .caption-label { position: static; width: 100%; max-width: none; border: 0;
  border-radius: 0; padding: .25rem .4rem .35rem; text-align: left; white-space: normal; overflow-wrap: anywhere;
  font-size: .75rem; line-height: 1.3; overflow: visible; opacity: 1 !important; background: none; }
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
        self.said = gr.Markdown(elem_id="library-said")
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
        sweep = gr.Button(SWEEP, visible=False, size="sm", elem_id="library-sweep")
        with gr.Column(visible=False, elem_id="library-run") as self.details:
            self.about = gr.Markdown(elem_id="library-about")
            self.layout()
            self.acts = Acts(place, self.chosen, sweep)
        self.acts.trash()
        self.kept = gr.JSON(visible=False)

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
        ins = [self.search, self.seen, self.chosen]
        outs = [self.seen, self.runs, self.label, self.turning, self.back, self.on, self.about, self.acts.sweep]
        outs += [self.chosen, self.details, self.said]
        self.timer.tick(told(self.list_again), ins, outs, **QUIET)
        searched = self.search.change(told(self.list_first), ins, outs, trigger_mode="always_last", **QUIET)
        turns = [self.back.click(told(self.list_before), ins, outs, **QUIET)]
        turns += [self.on.click(told(self.list_after), ins, outs, **QUIET)]
        pages = [self.shown, self.count, self.pictures, self.leafing, self.before, self.after]
        facts = [self.about, self.acts.note, self.acts.kinds]
        opened = [self.chosen, self.details, self.picture, *facts, *pages]
        turns += [self.runs.select(told(self.choose), self.seen, [*opened, self.said], **BUSY)]
        turns += [self.before.click(told(self.pictures_before), [self.chosen, self.shown], pages, **BUSY)]
        turns += [self.after.click(told(self.pictures_after), [self.chosen, self.shown], pages, **BUSY)]
        self.pictures.select(told(self.whole), self.shown, self.picture, **BUSY)

        def then(done: Any) -> None:
            turns.append(done.then(told(self.list_again), ins, outs, **QUIET))

        self.acts.bind(then, self.details)
        for done in (searched, *turns):
            now = done.then(told(place_of), [*ins, self.shown], self.kept, **QUIET)
            now.then(None, self.kept, None, js=kept.keep(NAME, ["place"]), **QUIET)
        if Context.root_block is not None:
            first = [self.search, *outs, self.picture, *facts[1:], *pages]
            came = Context.root_block.load(told(self.arrive), self.kept, first, js=kept.kept(NAME), **QUIET)
            came.then(None, js=kept.taken(NAME), **QUIET)
            Context.root_block.load(told(self.acts.thrown), None, self.acts.gone, **QUIET)

    def arrive(self, found: Any, request: gr.Request) -> Any:
        """A page that was just opened: the search, the page and the run that this browser had open."""
        place = found.get("place") if isinstance(found, dict) else None
        search, name = kept.word(place, "search"), kept.word(place, "run")
        runs = self.place(request).runs
        there = {folder.name for folder, _ in stamped(runs)}
        said, name = kept.gone([name], there, "choose another run below"), name if name in there else ""
        drawn = self.listed(search, {}, kept.whole(place, "number", 1, 9999, 1), "", request)
        if not name:
            return [search or gr.skip(), *drawn[:-3], "", gr.update(visible=False), said, *[gr.skip()] * 9]
        opened = self.opened(request, name, kept.whole(place, "pictures", 1, 9999, 1))
        return [search, *drawn[:6], opened[3], drawn[7], name, opened[1], said, opened[2], *opened[4:]]

    def list_again(self, search: str, seen: dict[str, Any], name: str, request: gr.Request) -> Any:
        """The page of runs as the disk has it now."""
        return self.listed(search, seen, seen.get("number", 1), name, request)

    def list_first(self, search: str, seen: dict[str, Any], name: str, request: gr.Request) -> Any:
        """The first page; an open run that the search does not find is closed. The same page for the same search."""
        if search == seen.get("search"):
            return self.list_again(search, seen, name, request)
        return self.listed(search, seen, 1, name, request, narrow=True)

    def list_before(self, search: str, seen: dict[str, Any], name: str, request: gr.Request) -> Any:
        """The page before."""
        return self.listed(search, seen, seen.get("number", 1) - 1, name, request)

    def list_after(self, search: str, seen: dict[str, Any], name: str, request: gr.Request) -> Any:
        """The next page."""
        return self.listed(search, seen, seen.get("number", 1) + 1, name, request)

    def listed(
        self, search: str, seen: dict[str, Any], number: int, name: str, request: gr.Request, narrow: bool = False
    ) -> Any:
        """A page of runs, and the open run's standing; nothing where this visitor's page shows it already."""
        runs = self.place(request).runs
        found = listing(runs, search or "", number)
        closed = closing(runs, name, found, narrow)
        heading = head(runs, name) if name and not closed else ""
        now = {"number": found.number, "names": found.names, "tiles": found.tiles, "label": found.label}
        now |= {"search": search, "heading": heading, "idle": len(found.idle)}
        if now == seen and not closed:
            return [gr.skip()] * 11
        if found.number < found.pages and (found.number, found.names) != (seen.get("number"), seen.get("names")):
            ahead(runs, found)
        tiles = gr.skip() if seen.get("tiles") == found.tiles else gr.update(value=found.tiles, selected_index=None)
        shut = ["", gr.update(visible=False), closed] if closed else [gr.skip()] * 3
        sweep = gr.update(visible=bool(found.idle), value=SWEEP.format(runs_of(len(found.idle))))
        return [now, tiles, found.label, *turned(found), heading or gr.skip(), sweep, *shut]

    def choose(self, seen: dict[str, Any], request: gr.Request, event: gr.SelectData) -> Any:
        """The run of a tile that was clicked."""
        names = seen.get("names", [])
        name = names[event.index] if 0 <= event.index < len(names) else ""
        return [*self.opened(request, name, 1), ""]

    def opened(self, request: gr.Request, name: str, number: int) -> list[Any]:
        """A run with a page of its pictures."""
        found = look(self.place(request).runs, name, number)
        kinds = gr.update(choices=found.kinds, value=[value for _, value in found.kinds])
        hidden = gr.update(value=None, visible=False)
        return [name, gr.update(visible=True), hidden, found.about, found.note, kinds, *self.paged(found)]

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


def head(runs: Path, name: str) -> str:
    """The open run's heading; "" where it went just now."""
    try:
        return about(runs, name)
    except UsageError:
        return ""


def closing(runs: Path, name: str, found: Listing, narrow: bool) -> str:
    """Why the open run is not shown any longer; "" where it stays."""
    if name and not (runs / name / "run.toml").is_file():
        return f"{name} is not there any more: it was deleted or renamed."
    if name and narrow and name not in found.matches:
        return f"{name} was closed: the search does not find it."
    return ""


def place_of(search: str, seen: dict[str, Any], name: str, shown: dict[str, Any]) -> dict[str, Any]:
    """What the browser shall remember: no longer texts than it takes back."""
    return {"search": (search or "")[: kept.LONGEST], "number": seen.get("number", 1), "run": name,
            "pictures": shown.get("number", 1)}  # fmt: skip


def build(place: Where) -> Tab:
    """The tab, inside the page that is being built."""
    tab = Tab(place)
    tab.bind()
    return tab
