"""The page: a head, five tabs, and the same jobs over HTTP. It only binds what the tabs' files know."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from studio.ui import page_api
from studio.ui.place import Where
from studio.ui.theme import RESTORE, TURN
from studio.ui.words import TITLE

TABS = ("Train", "Watch", "Sample", "Compare", "Library")
TAGLINE = "Teach a diffusion model one subject, style or taste, and see how well it learned."
KEEP = 86_400  # seconds that a picture shown once stays in the page's cache
CLOCKS = """() => {names}.map((name) => ({{  // the first tab is said to be selected also when another one is open
  __type__: 'update', active: document.getElementById(`tab-${{name}}-button`)?.ariaSelected === 'true'
}}))"""
REMEMBER = """() => {{
  // the first tab is selected by itself, before the one of the address or after it
  if (!window.studioOpened || document.getElementById('tab-{tab}-button')?.ariaSelected !== 'true') return;
  const url = new URL(location);
  if (url.searchParams.get('tab') === '{tab}') return;
  url.searchParams.set('tab', '{tab}');
  history.pushState(null, '', url);
}}"""


class Steady(dict[Any, Any]):
    """Gradio goes over a visitor's components in one thread while another adds some: it goes over what was there."""

    def values(self) -> Any:
        return [*super().values()]

    def items(self) -> Any:
        return [*super().items()]


def build(where: Where, notes: Sequence[str] = (), sign_in: bool = False) -> gr.Blocks:
    """The whole page. notes: what everybody should know, a sentence each; sign_in: with the hub's button."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, KEEP), fill_width=True) as page:
        tabs: list[gr.Tab] = []
        clocks: dict[gr.Timer, gr.Tab] = {}
        head(notes, sign_in)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            for name in TABS:
                with gr.Tab(name, id=name.lower(), elem_id=f"tab-{name.lower()}") as tab:
                    importlib.import_module(f"studio.ui.tab_{name.lower()}").build(where)
                tab.select(None, js=REMEMBER.format(tab=name.lower()), api_visibility="private")
                tabs.append(tab)
                timers = [one for one in page.blocks.values() if isinstance(one, gr.Timer)]
                clocks |= {timer: tab for timer in timers if timer not in clocks}
        tick_where_seen(page, tabs, clocks)
        page.load(None, js=RESTORE, api_visibility="private")
        page_api.bind(where)
    page.default_config.blocks, page.default_config.fns = Steady(page.blocks), Steady(page.fns)
    for event in page.fns.values():  # the tabs' own events are no interface that anybody may build on
        if event.api_name not in page_api.NAMES:
            event.api_visibility = "private"
    return page


def tick_where_seen(page: gr.Blocks, tabs: Sequence[gr.Tab], clocks: Mapping[gr.Timer, gr.Tab]) -> None:
    """Only the open tab's timers tick: a look costs the browser work, whatever it draws. Opening a tab is a look."""
    names = json.dumps([tab.id for tab in clocks.values()])
    for tab in tabs:
        tab.select(None, None, [*clocks], js=CLOCKS.format(names=names), api_visibility="private")
    for timer, tab in clocks.items():
        timer.active = tab is tabs[0]
        for event in page.fns.values():
            if (timer._id, "tick") in event.targets:
                event.targets.append((tab._id, "select"))


def head(notes: Sequence[str], sign_in: bool) -> None:
    """Name, what it is for, light or dark, the sign-in button, and the notes."""
    with gr.Row(elem_id="page-head"):
        gr.HTML(f"<h1>{escape(TITLE)}</h1><p>{escape(TAGLINE)}</p>", container=False)
        turn = gr.Button("Light / dark", size="sm", variant="secondary", elem_id="page-theme", scale=0)
        if sign_in:
            gr.LoginButton(size="sm", elem_id="page-sign-in", scale=0)
    for note in notes:
        gr.HTML(f'<div class="page-note" role="note">{escape(note)}</div>', container=False)
    turn.click(None, js=TURN, api_visibility="private")
