"""The adapter's files of a finished or stopped run, written anew with other weights of it, and proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from studio import export, previews, start
from studio.pipelines import attention, backbone
from studio.pipelines.adapters import files, together
from studio.pipelines.drawing import KEY
from studio.pipelines.protocols import Adapter, Backbone
from studio.precision import preferred
from studio.store import Run

Weights = Callable[[Backbone, Adapter], AbstractContextManager[None]]
"""Inside, the adapter has the weights that are to be written."""
OURS = tuple(f"studio.{name}" for name in ("config", "memory", "data", "base"))
WORDS = ("trigger", "class_word", "base_model", "base_licence", *OURS, KEY)  # of the header that stay


def rewrite(run: Run, weights: Weights, said: Mapping[str, str], strength: float = 1.0) -> list[Path]:
    """Write the adapter's files with other weights, and see that a stock pipeline draws the same.

    said: for the files' header. The run is the caller's alone. Raises ModelError where the file draws another picture.
    """
    config, settings = run.config(), run.config().settings
    old = files.header(run.folder / files.NAME) if (run.folder / files.NAME).is_file() else {}
    about = {key: old[key] for key in WORDS if key in old} | dict(said)
    model = backbone.load(config.model, *preferred())
    attention.install(model.net, settings.attention)
    words = together.Words(about.get("trigger", ""), about.get("class_word", ""))
    adapter = start.again(settings, model, words, run.folder / files.NAME)
    prompt = f"a {words.trigger} {words.class_word}"
    drawing = previews.stock(settings.previews, model.prediction == "flow")
    shot = previews.Shot(" ".join(prompt.split()), settings.previews.seed)
    with weights(model, adapter), adapter.folded(strength):
        written = files.exports(model, adapter, run.folder, about)
        drawn = next(iter(previews.take(model, [shot], drawing)))
    export.check(config.model, model, written[0], shot, drawing, drawn)
    return written
