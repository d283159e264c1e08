"""The recommended checkpoint of a finished run, at the recommended strength, as its adapter."""

from __future__ import annotations

from pathlib import Path

from studio import choice_file, export, previews
from studio.choice_weights import holding, usable
from studio.pipelines import attention, backbone
from studio.pipelines.adapters import files, together
from studio.pipelines.drawing import KEY
from studio.pipelines.errors import UsageError
from studio.precision import preferred
from studio.store import Run

WORDS = (
    "trigger",
    "class_word",
    "base_model",
    "base_licence",
    "studio.config",
    "studio.memory",
    "studio.data",
    "studio.base",
    KEY,
)


def pick(run: Run) -> list[Path]:
    """Write the adapter's files anew from the recommended checkpoint, and see that a stock pipeline draws the same.

    Raises UsageError where nothing is recommended or its checkpoint is gone, ModelError where the file draws another
    picture.
    """
    said, config = choice_file.recommended(run.folder), run.config()
    step, strength, settings = int(said["step"]), float(said["strength"]), config.settings
    kept = usable(run.checkpoints)
    if step not in kept:
        raise UsageError(f"{run.name}: the recommended checkpoint, step {step}, is not in {run.checkpoints} any more")
    old = files.header(run.folder / files.NAME) if (run.folder / files.NAME).is_file() else {}
    about = {key: old[key] for key in WORDS if key in old} | {"step": str(step), "strength": f"{strength:g}"}
    with run.alone():
        model = backbone.load(config.model, *preferred())
        attention.install(model.net, settings.attention)
        words = together.Words(about.get("trigger", ""), about.get("class_word", ""))
        adapter = together.build(settings.adapter, settings.tokens, model, words)
        prompt = f"a {about.get('trigger', '')} {about.get('class_word', '')}"
        drawing = previews.stock(settings.previews, model.prediction == "flow")
        shot = previews.Shot(" ".join(prompt.split()), settings.previews.seed)
        with holding(settings, model, adapter, kept[step]), adapter.folded(strength):
            written = files.exports(model, adapter, run.folder, about)
            drawn = next(iter(previews.take(model, [shot], drawing)))
        export.check(config.model, model, written[0], shot, drawing, drawn)
        ledger = choice_file.Ledger.read(run.folder / choice_file.NAME)
        ledger.picked["exported"] = True
        run.write(choice_file.NAME, ledger.to_json())
    return written
