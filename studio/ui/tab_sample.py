"""The Sample tab: pictures and grids by any run, checkpoint or file, and settings back out of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from studio.pipelines.errors import StudioError
from studio.ui import drawable, drawn, drawn_files, kept, recipe_reading, sample_form
from studio.ui import tab_sample_parts as parts
from studio.ui.drawing_room import ROOM, Frame
from studio.ui.grids import cells, parse
from studio.ui.place import Place, Where
from studio.ui.recipes import Recipe, command, commands
from studio.ui.sample_form import FIELDS, Wish
from studio.ui.space import on_gpu
from studio.ui.tab_answers import BUSY, QUIET, told
from studio.ui.words import EMPTY, shown

LEND = 120  # seconds of a GPU for one drawing on ZeroGPU
NAME = "sample"  # what the browser remembers is called so


class Tab:
    """The tab's components. fields: by their names in `sample_form`; chosen: the picture that was clicked."""

    def __init__(self, place: Where) -> None:
        self.place, self.frames = place, on_gpu(LEND)(ROOM.draw)
        self.chosen, self.files, self.kept = gr.State(""), gr.State([]), gr.JSON(visible=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                found = parts.sources() | parts.words() | parts.numbers() | parts.manner()
                self.axes, along = parts.grid()
                found |= along
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
        again = self.again.click(told(self.restore), [self.chosen, *form], [self.said, *form], **BUSY)
        drop = self.drop.upload(told(self.dropped), [self.drop, *form], [self.said, self.drop, *form], **BUSY)
        for done in (again, drop):
            done.then(told(unfolded), form, self.axes, **QUIET)
        gr.on([field.change for field in form], None, form, None, js=kept.keep(NAME, FIELDS), **QUIET)
        self.fields["sources"].focus(told(self.choices), None, self.fields["sources"], **QUIET)
        if Context.root_block is not None:
            there = [self.said, *gallery, *form]
            opened = Context.root_block.load(told(self.arrive), self.kept, there, js=kept.kept(NAME), **QUIET)
            opened.then(None, js=kept.taken(NAME), **QUIET)
            opened.then(told(unfolded), form, self.axes, **QUIET)

    def draw(self, request: gr.Request, *values: Any) -> Iterator[Any]:
        """Frame by frame: the bar, what is said, estimates, pictures, and the buttons."""
        keep, busy = [gr.skip()] * 2, [gr.update(interactive=False), gr.update(interactive=True)]
        idle, visitor = [gr.update(interactive=True), gr.update(interactive=False)], str(request.session_hash or "")
        end, seen, gone, moment = Frame(""), 0, 0, drawn_files.stamp()
        try:
            here = self.place(request)
            here.may_write("drawing")
            wish = wanted(dict(zip(FIELDS, values, strict=True)), here)
            yield [
                bar(0),
                "starting",
                gr.update(visible=False),
                *keep,
                *busy,
                same(wish.recipes, bool(wish.axes), here),
            ]
            for end in self.frames(wish.recipes, here.runs, visitor):
                fresh = keep
                if len(end.done) > seen:
                    gone += keep_all(end, seen, here, moment)
                    seen, fresh = len(end.done), gallery(here)
                early = gr.update(value=list(end.early), visible=True) if end.early else gr.skip()
                yield [bar(end.share), sentence(end, gone), early, *fresh, *busy, gr.skip()]
            gone += keep_sheets(end, wish, here, moment)
            hidden = gr.update(value=None, visible=False)
            yield [bar(), sentence(end, gone), hidden, *gallery(here), *idle, gr.skip()]
        except Exception as error:  # what the page says instead of a traceback
            yield [bar(), f"**{shown(error)}**", gr.update(value=None, visible=False), *keep, *idle, gr.skip()]

    def stop(self, request: gr.Request) -> str:
        """Asks this visitor's drawing to end after the step it is at."""
        return "stopping after this step" if ROOM.stop(str(request.session_hash or "")) else "nothing is being drawn"

    def choose(self, files: list[str], event: gr.SelectData, request: gr.Request) -> Any:
        """The picture that was clicked, and the command that draws it."""
        path = files[event.index] if 0 <= event.index < len(files) else ""
        try:
            found = recipe_reading.read(Path(path)) if path else None
            said = same(*asked(found), self.place(request)) if found else ""
        except StudioError:
            said = ""
        return path, gr.update(interactive=bool(path)), said

    def restore(self, path: str, *values: Any) -> list[Any]:
        """The fields as a picture's recipe has them, and a remark for each thing that was not taken."""
        found = recipe_reading.read(Path(path))
        now = dict(zip(FIELDS, values, strict=True))
        try:
            current = sample_form.recipe_of(now)
        except StudioError:
            current = Recipe()  # what is in the fields now is wrong: the picture's settings come over the defaults
        filled = sample_form.fields(found.over(current), found.axes)
        grid = f", and those of its grid ({' x '.join(one['name'] for one in found.axes)})" if found.axes else ""
        said = [f"The picture's settings are back{grid}.", *(shown(StudioError(line)) for line in found.remarks)]
        return [" ".join(said), *updates(filled)]

    def dropped(self, path: str | None, *values: Any) -> list[Any]:
        """As `restore`; the field is empty again for the next picture."""
        if not path:
            return [gr.skip()] * (len(FIELDS) + 2)
        try:
            said, *filled = self.restore(path, *values)
        except StudioError as error:
            return [f"**{shown(error)}**", None, *[gr.skip()] * len(FIELDS)]
        return [said, None, *filled]

    def choices(self, request: gr.Request) -> Any:
        """The sources as the disk has them now."""
        return gr.update(choices=drawable.choices(self.place(request).store))

    def arrive(self, kept: dict[str, Any] | None, request: gr.Request) -> list[Any]:
        """A page that was just opened: the newest pictures, the draft, and a source to begin with."""
        here = self.place(request)
        known = drawable.choices(here.store)
        filled = {name: value for name, value in kept.items() if name in FIELDS} if isinstance(kept, dict) else {}
        filled["sources"] = gr.update(choices=known, value=filled.get("sources") or [known[0][1]])
        tiles, files = gallery(here)
        return ["" if files else EMPTY["samples"], tiles, files, *updates(filled)]


def wanted(values: dict[str, Any], here: Place) -> Wish:
    """What the fields ask for, with every source looked up in this visitor's folders. Raises UsageError."""
    found = sample_form.wish(values)
    recipes = tuple(drawable.confined(recipe, here) for recipe in found.recipes)
    return Wish(drawable.confined(found.recipe, here), found.axes, recipes)


def asked(found: recipe_reading.Found) -> tuple[Sequence[Recipe], bool]:
    """The recipes of a picture or of a whole sheet, and whether it is a sheet. Raises UsageError."""
    axes = [parse(axis["name"], axis["values"]) for axis in found.axes]
    return cells(found.over(Recipe()), axes), bool(axes)


def same(recipes: Sequence[Recipe], grid: bool, here: Place) -> str:
    """The command that draws these pictures again: their seeds count up, or they are a grid's, with a command each."""
    elsewhere = None if here.space or here.runs == Path("runs").absolute() else here.runs
    return commands(recipes, elsewhere) if grid else command(recipes[0], len(recipes), elsewhere)


def keep_all(frame: Frame, seen: int, here: Place, moment: str) -> int:
    """Writes the pictures of a frame that were not there before; how many old ones had to go."""
    for number, one in list(frame.done.items())[seen:]:
        drawn.keep(one, here, moment, number)
    return drawn_files.prune(here)


def keep_sheets(frame: Frame, wish: Wish, here: Place, moment: str) -> int:
    """Writes the sheets of a grid, if it is one and anything of it was drawn; how many old pictures had to go."""
    if not (wish.axes and frame.done):
        return 0
    every = [frame.done.get(number) for number in range(len(wish.recipes))]
    list(drawn.keep_sheets(wish.recipe, wish.axes, every, here, moment))
    return drawn_files.prune(here)


def gallery(here: Place) -> list[Any]:
    """The newest pictures, and their files for whoever clicks on one."""
    found = drawn.recent(here)
    tiles = [(str(one.path), one.caption) for one in found]
    return [gr.update(value=tiles, selected_index=None), [str(one.path) for one in found]]


def bar(share: float | None = None) -> Any:
    """How far a drawing is; not to be seen where there is none."""
    if share is None:
        return gr.update(value="", visible=False)
    done = f'<div style="width:{share:.1%};height:8px;background:var(--primary-500);transition:width .2s"></div>'
    about = f'role="progressbar" aria-label="drawing" aria-valuemin="0" aria-valuemax="1" aria-valuenow="{share:.3f}"'
    track = "border-radius:4px;overflow:hidden;background:var(--border-color-primary)"
    return gr.update(value=f'<div {about} style="{track}">{done}</div>', visible=True)


def sentence(frame: Frame, gone: int = 0) -> str:
    """What a frame says, with the doubts about what was asked for, and how many old pictures went."""
    went = (
        [f"{gone} older picture{'s' * (gone != 1)} removed: the newest {drawn_files.MOST:,} are kept"] if gone else []
    )
    return "\n\n".join([frame.said, *(f"*{note}*" for note in (*frame.notes, *went))]) or EMPTY["samples"]


def kind_fields(kind: str) -> list[Any]:
    """Only the numbers that a kind of guidance reads are seen."""
    return [gr.update(visible=parts.reads(kind, name)) for name in sample_form.GUIDING if name != "kind"]


def unfolded(*values: Any) -> Any:
    """The grid's panel, open where an axis is set: what draws a hundred pictures should be in sight."""
    filled = dict(zip(FIELDS, values, strict=True))
    return gr.update(open=True) if any(filled.get(axis) for axis in sample_form.AXES) else gr.skip()


def updates(filled: dict[str, Any]) -> list[Any]:
    """New values of the fields; of the guidance's numbers only those that count are seen. Others stay as they are."""
    kind = filled.get("kind", "cfg")
    seen = {name: gr.update(value=filled[name], visible=parts.reads(kind, name))
            for name in sample_form.GUIDING if name != "kind" and name in filled}  # fmt: skip
    return [{**filled, **seen}.get(name, gr.skip()) for name in FIELDS]


def build(place: Where) -> Tab:
    """The tab, inside the page that is being built."""
    tab = Tab(place)
    tab.bind()
    return tab
