"""The Train tab's components, from top to bottom: pictures, goal and method, settings, start."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio import registry
from studio.ui import draft as drafts
from studio.ui import goals
from studio.ui.draft import Draft
from studio.ui.form_choices import subjects
from studio.ui.place import Where
from studio.ui.plan_line import FIRST
from studio.ui.train_actions import FRESH, SUBJECT
from studio.ui.train_look import FOLDER, HEADERS, Answer
from studio.ui.words import EMPTY

DROP = "Pictures, and captions (.txt) if any"
REASON = "Say what you want, and a method is proposed with its reason; or choose a method yourself."
EVERY = 5.0  # seconds between two looks at which other runs there are, for the plan
STARTED = "train-started"  # the id of what says which run was started last, for the Watch tab
NO_COMMAND = "# It comes here when there are pictures and the settings are right."
NO_EXAMPLE = ("none of them", "")
STATIC = [number for number, name in enumerate(HEADERS) if name != "caption"]

LOOK = """
#train-pictures .grid-wrap { min-height: 0; max-height: none; }
#train-captions .body-cell span.text { max-height: 6em; overflow-y: auto; overflow-wrap: anywhere; }
:is(#train-verdict, #train-refused, #train-pictures .caption-label) { overflow-wrap: anywhere; }
#train-form:has([id^=setting-], #train-none) #train-drawing { display: none; }
#train-captions th * { word-break: normal !important; overflow-wrap: normal !important; }
.gradio-container { overflow: clip !important; }
@media (min-width: 900px) {
  #train-side { position: sticky; top: 1rem; align-self: flex-start; max-height: 96vh; overflow-y: auto; }
}
@media (max-width: 899px) {
  #train-go { position: fixed; inset: auto 0 0 0; z-index: 30; gap: 4px; padding: 8px 10px; max-height: 45vh;
    overflow-y: auto; background: var(--body-background-fill); border-top: 1px solid var(--border-color-primary); }
  #train-side { padding-bottom: 72px; }
}"""  # what is planned and started stays in sight of a long form


@dataclass
class Parts:
    """The components. draft: what is filled in; kept: the browser's copy of it; form: changes when the form must be
    drawn anew; seen: what is shown of the pictures; started: name and moment of the run that was started last.
    """

    place: Where
    draft: gr.State
    kept: gr.BrowserState
    form: gr.State
    seen: gr.State
    started: gr.State
    upload: gr.File
    refused: gr.Markdown
    folder: gr.Textbox
    example: gr.Dropdown
    verdict: gr.Markdown
    thumbnails: gr.Gallery
    page: gr.Slider
    captions: gr.Dataframe
    write: gr.Button
    out: gr.Dropdown
    take: gr.Button
    goal: gr.Radio
    trainer: gr.Dropdown
    reason: gr.Markdown
    search: gr.Textbox
    everything: gr.Checkbox
    reset: gr.Button
    fields: gr.Column
    problem: gr.Markdown
    plan: gr.Markdown
    timer: gr.Timer
    fresh: gr.Checkbox
    start: gr.Button
    status: gr.Markdown
    command: gr.Code
    toml: gr.Code
    preset: gr.Dropdown
    load: gr.Button
    save: gr.Button
    delete: gr.Button
    surely: gr.Button
    keep: gr.Button
    file: gr.UploadButton

    @property
    def faces(self) -> list[Any]:
        """What shows a draft: set together whenever it is replaced."""
        ticks = [self.everything, self.fresh]
        return [self.draft, self.goal, self.trainer, self.folder, self.example, self.reason, *ticks, self.form]

    @property
    def doctor(self) -> list[Any]:
        """What shows the data doctor's answer."""
        return [self.seen, self.verdict, self.thumbnails, self.page, self.captions, self.write, self.out, self.take]


def layout(place: Where) -> dict[str, Any]:
    """Every component by its name in `Parts`, drawn where this is called."""
    made: dict[str, Any] = {"place": place, "draft": gr.State({}), "form": gr.State(""), "seen": gr.State({})}
    made["timer"] = gr.Timer(EVERY)
    made["started"] = gr.State(("", ""))
    made["started"].elem_id = STARTED
    made["kept"] = gr.BrowserState(drafts.fresh(), storage_key="studio-train", secret="studio-train")
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("### 1 · Pictures")
            made |= pictures()
            gr.Markdown("### 2 · Goal and method")
            made |= method()
            gr.Markdown("### 3 · Settings")
            made |= settings()
        with gr.Column(scale=2, min_width=320, elem_id="train-side"):
            gr.Markdown("### 4 · Start")
            made |= start()
            made |= presets()
            gr.HTML(f"<style>{LOOK}</style>", container=False, padding=False)
    return made


def pictures() -> dict[str, Any]:
    """Where pictures come from, and what the data doctor says of them."""
    made: dict[str, Any] = {}
    made["upload"] = gr.File(label=DROP, file_count="multiple", type="filepath", elem_id="train-upload", height=140)
    made["refused"] = gr.Markdown(elem_id="train-refused")
    with gr.Row():
        made["folder"] = gr.Textbox(
            label="or a folder on the machine that runs the studio", elem_id="train-folder", scale=3, min_width=220
        )
        made["example"] = gr.Dropdown(
            [*subjects(), NO_EXAMPLE],
            value=None,
            label="or an example (type to search)",
            elem_id="train-example",
            min_width=200,
        )
    made["verdict"] = gr.Markdown(EMPTY["pictures"], elem_id="train-verdict")
    made["thumbnails"] = gr.Gallery(
        label="Inside the frame: what training sees; dark: cut away",
        columns=4,
        height="auto",
        object_fit="contain",
        format="jpeg",
        visible=False,
        interactive=False,
        elem_id="train-pictures",
    )
    made["page"] = gr.Slider(1, 2, 1, step=1, label="Page of pictures", visible=False, elem_id="train-page")
    made["captions"] = gr.Dataframe(
        headers=HEADERS,
        type="array",
        datatype="str",
        interactive=True,
        static_columns=STATIC,
        column_widths=["16%", "32%", "12%", "13%", "13%", "14%"],
        wrap=True,
        visible=False,
        max_height=360,
        label="Captions: double-click one (or press Enter on it) to edit it, then write them to the text files beside",
        elem_id="train-captions",
    )
    made["write"] = gr.Button("Write captions", visible=False, size="sm", elem_id="train-write-captions")
    with gr.Row():
        made["out"] = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            visible=False,
            label="Pictures to take out: tap one above, or choose here",
            elem_id="train-out",
            scale=3,
            min_width=220,
        )
        made["take"] = gr.Button("Take out", visible=False, size="sm", elem_id="train-take-out", min_width=120)
    return made


def method() -> dict[str, Any]:
    """The goal, which proposes a method with its reason; and the method itself."""
    titles = [(one.title, one.key) for one in goals.GOALS]
    entries = [entry for entry in registry.describe("trainers") if not entry.error]
    methods = [
        (f"{entry.name}: {entry.summary.partition(':')[2].strip() or entry.summary}", entry.name) for entry in entries
    ]
    return {
        "goal": gr.Radio(titles, value=None, label="What do you want?", elem_id="train-goal"),
        "trainer": gr.Dropdown(methods, value=drafts.FIRST, label="Method", elem_id="train-method", filterable=True),
        "reason": gr.Markdown(REASON, elem_id="train-reason"),
    }


def settings() -> dict[str, Any]:
    """What is above the form: search, all settings, reset; and where the form is drawn."""
    made: dict[str, Any] = {}
    with gr.Row():
        made["search"] = gr.Textbox(
            label="Search all settings", placeholder="learning rate", elem_id="train-search", scale=3, min_width=200
        )
        made["everything"] = gr.Checkbox(label="All settings", value=False, elem_id="train-all", min_width=130)
    made["reset"] = gr.Button("Reset settings", size="sm", elem_id="train-reset")
    with gr.Column(elem_id="train-form") as fields:
        gr.Markdown("The settings are being drawn…", elem_id="train-drawing")
    made["fields"] = fields
    return made


def start() -> dict[str, Any]:
    """The plan, the start button, and the command that does the same."""
    made: dict[str, Any] = {"plan": gr.Markdown(FIRST, elem_id="train-plan")}
    with gr.Column(elem_id="train-go"):
        made["problem"] = gr.Markdown(elem_id="train-problem")
        made["start"] = gr.Button("Start training", variant="primary", elem_id="train-start")
        made["status"] = gr.Markdown(elem_id="train-status")
    made["fresh"] = gr.Checkbox(
        label=f"{FRESH}, even if one of this name is there to go on with", value=False, elem_id="train-fresh"
    )
    made["command"] = gr.Code(
        label="The command that does the same",
        value=NO_COMMAND,
        language="shell",
        interactive=False,
        lines=2,
        wrap_lines=True,
        elem_id="train-command",
    )
    with gr.Accordion("The whole config as TOML", open=False):
        made["toml"] = gr.Code(NO_COMMAND, language=None, interactive=False, max_lines=30, elem_id="train-toml")
    return made


def presets() -> dict[str, Any]:
    """Settings kept under a name."""
    made: dict[str, Any] = {}
    with gr.Accordion("Presets", open=False):
        made["preset"] = gr.Dropdown(
            [], value="", label="Preset: choose one, or type a name", allow_custom_value=True, elem_id="train-preset"
        )
        with gr.Row():
            made["load"] = gr.Button("Load", size="sm", elem_id="train-preset-load", min_width=80)
            made["save"] = gr.Button("Save", size="sm", elem_id="train-preset-save", min_width=80)
            made["delete"] = gr.Button("Delete", size="sm", elem_id="train-preset-delete", min_width=80)
            hidden: dict[str, Any] = {"size": "sm", "min_width": 80, "visible": False}
            made["surely"] = gr.Button("Delete it", variant="stop", elem_id="train-preset-delete-yes", **hidden)
            made["keep"] = gr.Button("Keep it", elem_id="train-preset-delete-no", **hidden)
            made["file"] = gr.UploadButton("Load a TOML file", size="sm", elem_id="train-preset-file", min_width=120)
    return made


def filled(draft: Draft, before: Draft | None = None) -> list[Any]:
    """The values of `Parts.faces` for a draft. before: what the form shows; where that stays it is not drawn anew, for
    what somebody types into it just then would be lost.
    """
    folder = str(draft["changed"].get(FOLDER) or "")
    example = folder if folder.startswith(SUBJECT) else None
    view = [draft["view"]["all"], draft["view"]["fresh"]]
    reason = draft["reason"] or REASON
    same = before is not None and all(before[part] == draft[part] for part in ("trainer", "changed", "wrong"))
    drawn = gr.skip() if same else stamp()
    return [draft, draft["goal"] or None, draft["trainer"], folder, example, reason, *view, drawn]


def pictured(draft: Draft, refused: str | None = None) -> list[Any]:
    """As `filled` for another folder, which no widget of the form shows: what is being typed there stays.

    refused: a folder's name that stays in its field all the same.
    """
    found = filled(draft)
    return [draft, *found[1:3], found[3] if refused is None else refused, found[4], *[gr.skip()] * 4]


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
        gr.update(choices=found.files, value=[], visible=bool(found.files)),
        gr.update(visible=bool(found.files)),
    ]
