"""The model card of a run that nobody has evaluated: how to load it, and that nothing was scored."""

from __future__ import annotations

import re
from collections.abc import Iterator

from studio.evaluation import model_card
from studio.evaluation.model_card_use import loading
from studio.evaluation.page_private import leaves
from studio.evaluation.page_roles import cast
from studio.evaluation.records import Evaluation, Source
from studio.store import Run
from studio.ui.library_header import ADAPTER, header


def text(run: Run) -> str:
    """The card, in Markdown; no path of this machine and no prompt of the run in it."""
    evaluation = found(run)
    source = evaluation.sources[-1]
    parts = cast(evaluation)
    sections = [
        model_card.front_matter(source),
        f"# {model_card.title(evaluation, source)}",
        *model_card.opening(evaluation, parts),
        "## Use",
        loading(source, evaluation),
        *model_card.limits(evaluation, parts),
        *training(evaluation),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def found(run: Run) -> Evaluation:
    """An evaluation without pictures and scores, of the run's finished adapter."""
    said, config = header(run), dict(run.table())
    words = said.get("trigger", ""), said.get("class_word", "")
    model = said.get("base_model") or str(config.get("model", ""))
    sources = [Source("base", model, class_word=words[1]), Source(run.name, model, ADAPTER, 1.0, 0, *words)]
    return Evaluation(sources=sources, settings={"run": run.name}, config=config)


def training(evaluation: Evaluation) -> Iterator[str]:
    """The settings that made it, as far as they say something to others."""
    rows = [(key, value) for key, value in leaves(evaluation.config) if value and "preview" not in key]
    worth = [(key, value) for key, value in rows if re.search(rf"(^|\.)({model_card.WORTH})$", key)]
    if worth:
        yield "## Training"
        yield "\n".join(f"- {model_card.plain(key)}: {model_card.plain(value)}" for key, value in worth)
