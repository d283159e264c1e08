"""The Sample tab: pictures and grids by any run, checkpoint or file, and settings back out of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from studio.pipelines.errors import StudioError
from studio.ui import drawable, drawn, recipe_reading, sample_form
from studio.ui import tab_sample_parts as parts
from studio.ui.drawing_room import Frame, Room
from studio.ui.place import Place, Where
from studio.ui.recipes import Recipe, command
from studio.ui.sample_form import FIELDS, Wish
from studio.ui.space import on_gpu
from studio.ui.tab_answers import BUSY, QUIET, told
from studio.ui.words import EMPTY, shown

LEND = 120  # seconds of a GPU for one drawing on ZeroGPU
ROOM = Room()  # one for the whole server: the model's memory is


class Tab:
    """The tab's components. fields: by their names in `sample_form`; chosen: the picture that was clicked."""

    def __init__(self, place: Where) -> None:
        self.place, self.frames = place, on_gpu(LEND)(ROOM.draw)
        self.kept = gr.BrowserState({}, storage_key="studio-sample", secret="studio-sample")  # a draft, nothing secret
        self.chosen, self.files = gr.State(""), gr.State([])
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                found = parts.sources() | parts.words() | parts.numbers() | parts.manner() | parts.grid()
                self.fields = {name: found[name] for name in FIELDS}
                with gr.Row():
                    self.go = gr.Button("Draw", variant="primary", elem_id="sample-draw")
                    self.halt = gr.Button("Stop", variant="stop", elem_id="sample-stop", interactive=False)
            with gr.Column(scale=3, min_width=320):
                made = parts.results()
        self.bar, self.said, self.early, self.pictures = (made[key] for key in ("bar", "said", "early", "pictures"))
        self.again, self.drop, self.command = made["again"], made["drop"], made["command"]

    def bind(self) -> None:
        """Drawing, stopping, restoring, and the draft that outlives a reload."""
        form, gallery = list(self.fields.values()), [self.pictures, self.files]
        drawing = [self.bar, self.said, self.early, *gallery, self.go, self.halt, self.command]
        gr.on(
            [self.go.click, self.fields["prompt"].submit], self.draw, form, drawing,
            show_progress="hidden", concurrency_limit=4, concurrency_id="sample", api_visibility="private",
        )  # fmt: skip
        self.halt.click(told(self.stop), None, self.said, **QUIET)
        hidden = [self.fields[name] for name in sample_form.GUIDING if name != "kind"]
        self.fields["kind"].change(kind_fields, self.fields["kind"], hidden, **QUIET)
        self.pictures.select(told(self.choose), self.files, [self.chosen, self.again, self.command], **QUIET)
        self.again.click(told(self.restore), [self.chosen, *form], [self.said, *form], **BUSY)
        self.drop.upload(told(self.dropped), [self.drop, *form], [self.said, self.drop, *form], **BUSY)
        gr.on([field.change for field in form], draft, form, self.kept, trigger_mode="always_last", **QUIET)
        self.fields["sources"].focus(told(self.choices), None, self.fields["sources"], **QUIET)
        if Context.root_block is not None:
            Context.root_block.load(told(self.arrive), self.kept, [*gallery, *form], **QUIET)

    def draw(self, request: gr.Request, *values: Any) -> Iterator[Any]:
        """Frame by frame: the bar, what is said, estimates, pictures, and the buttons."""
        keep, busy = [gr.skip()] * 2, [gr.update(interactive=False), gr.update(interactive=True)]
        idle, visitor = [gr.update(interactive=True), gr.update(interactive=False)], str(request.session_hash or "")
        end, seen = Frame(""), 0
        try:
            here = self.place(request)
            here.may_write("drawing")
            wish = wanted(dict(zip(FIELDS, values, strict=True)), here)
            line = command(wish.recipe, len(wish.recipes) if not wish.axes else 1)
            yield [bar(0), "starting", gr.update(visible=False), *keep, *busy, line]
            for end in self.frames(wish.recipes, here.runs, visitor):
                fresh = keep
                if len(end.done) > seen:
                    keep_all(end, seen, here)
                    seen, fresh = len(end.done), gallery(here)
                early = gr.update(value=list(end.early), visible=True) if end.early else gr.skip()
                yield [bar(end.share), sentence(end), early, *fresh, *busy, gr.skip()]
            if wish.axes and end.done:
                list(
                    drawn.keep_sheets(wish.recipe, wish.axes, [end.done.get(n) for n in range(len(wish.recipes))], here)
                )
            gone = gr.update(value=None, visible=False)
            yield ["", sentence(end), gone, *gallery(here), *idle, gr.skip()]
        except Exception as error:  # what the page says instead of a traceback
            yield ["", f"**{shown(error)}**", gr.update(value=None, visible=False), *keep, *idle, gr.skip()]

    def stop(self, request: gr.Request) -> str:
        """Asks this visitor's drawing to end after the step it is at."""
        return "stopping after this step" if ROOM.stop(str(request.session_hash or "")) else "nothing is being drawn"

    def choose(self, files: list[str], event: gr.SelectData) -> Any:
        """The picture that was clicked, and the command that draws it."""
        path = files[event.index] if 0 <= event.index < len(files) else ""
        try:
            line = command(recipe_reading.read(Path(path)).over(Recipe())) if path else ""
        except StudioError:
            line = ""
        return path, gr.update(interactive=bool(path)), line

    def restore(self, path: str, *values: Any) -> list[Any]:
        """The fields as a picture's recipe has them, and a remark for each thing that was not taken."""
        found = recipe_reading.read(Path(path))
        now = dict(zip(FIELDS, values, strict=True))
        try:
            current = sample_form.recipe_of(now)
        except StudioError:
            current = Recipe()  # what is in the fields now is wrong: the picture's settings come over the defaults
        filled = sample_form.fields(found.over(current), found.axes)
        said = " ".join(["The picture's settings are back.", *(shown(StudioError(line)) for line in found.remarks)])
        return [said, *(filled.get(name, gr.skip()) for name in FIELDS)]

    def dropped(self, path: str | None, *values: Any) -> list[Any]:
        """As `restore`; the field is empty again for the next picture."""
        if not path:
            return [gr.skip()] * (len(FIELDS) + 2)
        said, *filled = self.restore(path, *values)
        return [said, None, *filled]

    def choices(self, request: gr.Request) -> Any:
        """The sources as the disk has them now."""
        return gr.update(choices=drawable.choices(self.place(request).store))

    def arrive(self, kept: dict[str, Any] | None, request: gr.Request) -> list[Any]:
        """A page that was just opened: the newest pictures, the draft, and a source to begin with."""
        here = self.place(request)
        known = drawable.choices(here.store)
        values = {name: value for name, value in (kept or {}).items() if name in FIELDS}
        filled = {name: gr.update(value=value) for name, value in values.items()}
        chosen = values.get("sources") or [known[0][1]]
        filled["sources"] = gr.update(choices=known, value=chosen)
        return [*gallery(here), *(filled.get(name, gr.skip()) for name in FIELDS)]


def wanted(values: dict[str, Any], here: Place) -> Wish:
    """What the fields ask for, with every source looked up in this visitor's folders. Raises UsageError."""
    found = sample_form.wish(values)
    recipes = tuple(drawable.confined(recipe, here) for recipe in found.recipes)
    return Wish(drawable.confined(found.recipe, here), found.axes, recipes)


def keep_all(frame: Frame, seen: int, here: Place) -> None:
    """Writes the pictures of a frame that were not there before."""
    for one in list(frame.done.values())[seen:]:
        drawn.keep(one, here)


def gallery(here: Place) -> list[Any]:
    """The newest pictures, and their files for whoever clicks on one."""
    found = drawn.recent(here)
    tiles = [(str(one.path), one.caption) for one in found]
    return [gr.update(value=tiles, selected_index=None), [str(one.path) for one in found]]


def bar(share: float) -> str:
    """How far a drawing is."""
    return f'<progress max="1" value="{share:.3f}" style="width:100%" aria-label="drawing">{share:.0%}</progress>'


def sentence(frame: Frame) -> str:
    """What a frame says, with the doubts about what was asked for."""
    return "\n\n".join([frame.said, *(f"*{note}*" for note in frame.notes)]) or EMPTY["samples"]


def kind_fields(kind: str) -> list[Any]:
    """Only the numbers that a kind of guidance reads are seen."""
    return [gr.update(visible=parts.reads(kind, name)) for name in sample_form.GUIDING if name != "kind"]


def draft(*values: Any) -> dict[str, Any]:
    """What the browser keeps of the fields."""
    return dict(zip(FIELDS, values, strict=True))


def build(place: Where) -> Tab:
    """The tab, inside the page that is being built."""
    tab = Tab(place)
    tab.bind()
    return tab
