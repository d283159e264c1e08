"""What the handlers of tabs have in common: an error becomes one sentence, never a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from studio.ui.words import toast

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
BUSY: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, whose errors the page shows as sentences with a remedy."""

    @functools.wraps(handler)
    def safely(*values: Any) -> Any:
        try:
            return handler(*values)
        except Exception as error:  # the last line of defence: the log has what is a fault of ours
            raise gr.Error(toast(error), print_exception=False) from None

    return safely


def ask(open_: bool) -> list[Any]:
    """The question whether something shall be deleted, shown or not: Delete, yes, no."""
    return [gr.update(visible=not open_), gr.update(visible=open_), gr.update(visible=open_)]
