"""One gradio widget for each field, and the form made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import gradio as gr

from studio.ui import draft as drafts
from studio.ui.draft import Draft
from studio.ui.form import Field
from studio.ui.form_choices import suggestions


def widget(field: Field, value: Any) -> gr.components.Component:
    """The widget of a field, showing what `Field.shown` gives.

    A number widget's own bounds are left open: it would refuse a value without a word, where the config says why.
    By its key the form that is drawn anew has the same widget, so that what is typed meanwhile still arrives.
    """
    common: dict[str, Any] = {"label": field.label, "info": field.hint, "elem_id": element(field.name)}
    common |= {"interactive": True, "min_width": 240, "preserved_by_key": []}
    known = suggestions(field)
    common["key"] = f"{field.name} {field.kind} {'known' if known else 'free'}"
    if field.kind in ("int", "float"):
        return gr.Number(value, **common)
    if field.kind == "bool":
        return gr.Checkbox(bool(value), **common)
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), value=value or None, **common)
    if field.kind == "list" and known:
        chosen = value.splitlines()
        return gr.Dropdown([*known, *chosen], value=chosen, multiselect=True, allow_custom_value=True, **common)
    if known:
        return gr.Dropdown(list(dict.fromkeys([*known, value])), value=value, allow_custom_value=True, **common)
    return gr.Textbox(value, lines=2 if field.kind == "list" else 1, max_lines=8, **common)


def element(name: str) -> str:
    """The id of a setting's widget on the page: `adapter.rank` is setting-adapter-rank; train-start is the button."""
    return f"setting-{name.replace('.', '-').replace('_', '-')}"


def form(draft: Draft, shown: Iterable[Field], wire: Callable[[str, Any], None]) -> None:
    """Widgets for the fields, table by table, each given to `wire` with its name. For use inside `gr.render`."""
    for table, group in groupby(shown, lambda field: "" if field.basic else field.name.rpartition(".")[0]):
        if table:
            gr.Markdown(f"**{table}**")
        with gr.Row():
            made = [(field, placed(field, drafts.shown(draft, field.name))) for field in group]
        for field, one in made:
            wire(field.name, one)


def placed(field: Field, value: Any) -> gr.components.Component:
    """A widget in a row; a checkbox in a column of its own, for in a row it has no width."""
    if field.kind != "bool":
        return widget(field, value)
    with gr.Column(min_width=240):
        return widget(field, value)


def sections(trainer: str, model: str, everything: bool, words: str, hidden: Iterable[str]) -> list[Field]:
    """The fields to show: basic ones, all of them table by table, or those that are searched for."""
    from studio.ui.form import search

    known = [field for field in drafts.by_name(trainer, model).values() if field.name not in hidden]
    if words.strip():
        return list(search(known, words))
    basic = [field for field in known if field.basic]
    rest = [field for field in known if not field.basic] if everything else []
    return [*basic, *sorted(rest, key=lambda field: field.name.rpartition(".")[0])]
