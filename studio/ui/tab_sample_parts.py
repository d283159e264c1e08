"""The Sample tab's components, in the order in which they are read."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.pipelines.drawing import SAMPLERS
from studio.pipelines.guidance_settings import KINDS, READS, Guiding
from studio.ui.drawn_files import MOST as MOST_KEPT
from studio.ui.grids import NAMES
from studio.ui.recipes import Recipe
from studio.ui.sample_form import AXES
from studio.ui.words import EMPTY

ALONG = [("no axis", ""), *((name.replace("_", " ").replace("guidance.", "guidance: "), name) for name in NAMES)]
VALUES = "Values parted by commas: 0, 0.5, 1. Ranges: 1-5, 10-50 (+20), 0-1 [5]. Texts with commas in quotes."
KIND_WORDS = {
    "cfg": "cfg: as in every tool",
    "consistency": "consistency: away from the base model",
    "personalization": "personalization: away from a weaker self",
    "rl": "rl: beyond the adapter, or back from it",
    "combined": "combined: base first, then the adapter",
}
NUMBER_WORDS = {
    "w_con": "Consistency weight (w_con)",
    "omega": "Strength of the weaker self (omega)",
    "gain": "Gain",
    "window": "Base model's share (window)",
    "late_scale": "Adapter's guidance scale (late_scale)",
    "rescale": "Rescale, 0 to 1",
}


def option(name: str) -> str:
    """A recipe setting's help."""
    return Recipe.model_fields[name].description or ""


def sources() -> dict[str, Any]:
    """Who draws."""
    listed = "RUN@STEP and paths of .safetensors files can be typed, Enter adds them"
    return {
        "sources": gr.Dropdown(
            choices=[], value=[], multiselect=True, allow_custom_value=True, max_choices=8, elem_id="sample-sources",
            label="Runs, checkpoints or adapter files (several act together)", info=listed,
        ),
        "strengths": gr.Textbox(
            value="1", label="Strength of each (1: as trained, 0: the base model)", elem_id="sample-strengths",
            info="one number for all, or one for each, parted by commas",
        ),
    }  # fmt: skip


def words() -> dict[str, Any]:
    """What is drawn."""
    return {
        "prompt": gr.Textbox(
            label="Prompt", info=option("prompt"), lines=2, elem_id="sample-prompt",
            placeholder="a {trigger} {class_word} in the snow",
        ),
        "negative": gr.Textbox(label="Negative prompt", info=option("negative"), elem_id="sample-negative"),
    }  # fmt: skip


def numbers() -> dict[str, Any]:
    """From which noise, how many, in how many steps. The recipe knows their bounds, and says them in sentences."""
    with gr.Row():
        seed = gr.Textbox(value="0", label="Seed", info="whole number", min_width=160, elem_id="sample-seed")
        count = gr.Number(value=1, label="Pictures", info="without a grid", min_width=160, elem_id="sample-n")
        steps = gr.Number(value=0, label="Steps", info="0: the adapter's own", min_width=160,
                          elem_id="sample-steps")  # fmt: skip
        scale = gr.Number(value=0, step=0.5, label="Guidance scale", info="0: the adapter's own", min_width=160,
                          elem_id="sample-scale")  # fmt: skip
    return {"seed": seed, "n": count, "steps": steps, "guidance_scale": scale}


def manner() -> dict[str, Any]:
    """How it is drawn, in every detail."""
    kinds = [(KIND_WORDS.get(kind, kind), kind) for kind in KINDS]
    samplers = [("the adapter's or model's own", ""), *((name, name) for name in SAMPLERS)]
    with gr.Accordion("Guidance, sampler and more", open=False, elem_id="sample-more"):
        found: dict[str, Any] = {"kind": gr.Dropdown(kinds, value="cfg", label="Guidance", elem_id="sample-guidance")}
        with gr.Row():
            for name, info in Guiding.model_fields.items():
                if name != "kind":
                    said = (info.description or "").replace("empty: ", "0: ")
                    found[name] = gr.Number(
                        value=info.default or 0, label=NUMBER_WORDS.get(name, name), info=said, step=0.1,
                        min_width=160, visible=reads("cfg", name), elem_id=f"sample-{name.replace('_', '-')}",
                    )  # fmt: skip
        found["sampler"] = gr.Dropdown(samplers, value="", label="Sampler", elem_id="sample-sampler")
        with gr.Row():
            found["decor"] = gr.Textbox(
                label="Remove these words (DECOR)", info=option("decor"), elem_id="sample-decor"
            )
            found["decor_strength"] = gr.Slider(0, 1, 1.0, step=0.05, label="Share of them",
                                                elem_id="sample-decor-strength")  # fmt: skip
        found["model"] = gr.Textbox(label="Base model", info=option("model"), elem_id="sample-model")
    return found


def reads(kind: str, name: str) -> bool:
    """Whether a kind of guidance reads a number."""
    return name == "rescale" or name in READS.get(kind, ())


def grid() -> tuple[gr.Accordion, dict[str, Any]]:
    """The panel, and along which settings a grid runs."""
    found: dict[str, Any] = {}
    with gr.Accordion("X/Y/Z grid", open=False, elem_id="sample-grid") as panel:
        gr.Markdown(VALUES)
        for axis, where in zip(AXES, ("across", "down", "one sheet each"), strict=True):
            with gr.Row():
                found[axis] = gr.Dropdown(ALONG, value="", label=f"{axis.upper()}, {where}", min_width=140, scale=2,
                                          elem_id=f"sample-{axis}")  # fmt: skip
                found[f"{axis}_values"] = gr.Textbox(
                    label=f"Values of {axis.upper()}", scale=3, elem_id=f"sample-{axis}-values"
                )
    return panel, found


def results() -> dict[str, Any]:
    """What was drawn, and what is being drawn."""
    big: dict[str, Any] = {
        "interactive": False, "object_fit": "contain", "height": "auto", "columns": 3, "fit_columns": False,
        "show_label": False,
    }  # fmt: skip
    return {
        "bar": gr.HTML("", elem_id="sample-progress", container=False, visible=False),
        "said": gr.Markdown(EMPTY["samples"], elem_id="sample-said"),
        "early": gr.Gallery(label="On the way", elem_id="sample-early", visible=False, buttons=[], **big),
        "head": gr.Markdown(f"Pictures, newest first; the newest {MOST_KEPT:,} are kept", elem_id="sample-head"),
        "pictures": gr.Gallery(
            label="Pictures, newest first", elem_id="sample-pictures", buttons=["download", "fullscreen"], **big
        ),
        "again": gr.Button("Use the settings of the chosen picture", elem_id="sample-again", interactive=False),
        "drop": gr.File(
            label="Drop a picture here: its settings come back", file_types=[".png"], elem_id="sample-drop", height=150
        ),
        "command": gr.Textbox(
            label="The command that draws the same pictures", lines=2, max_lines=8, interactive=False, buttons=["copy"],
            elem_id="sample-command",
        ),
    }  # fmt: skip
