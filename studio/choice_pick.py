"""The recommended checkpoint of a finished run, at the recommended strength, as its adapter."""

from __future__ import annotations

from pathlib import Path

from studio import choice_file
from studio.choice_weights import holding, usable
from studio.pipelines.errors import UsageError
from studio.rewriting import rewrite
from studio.store import Run


def pick(run: Run) -> list[Path]:
    """Write the adapter's files anew from the recommended checkpoint, and see that a stock pipeline draws the same.

    Raises UsageError where nothing is recommended or its checkpoint is gone, ModelError where the file draws another
    picture.
    """
    said, settings = choice_file.recommended(run.folder), run.config().settings
    step, strength = int(said["step"]), float(said["strength"])
    kept = usable(run.checkpoints)
    if step not in kept:
        raise UsageError(f"{run.name}: the recommended checkpoint, step {step}, is not in {run.checkpoints} any more")
    with run.alone():
        about = {"step": str(step), "strength": f"{strength:g}"}
        written = rewrite(run, lambda model, adapter: holding(settings, model, adapter, kept[step]), about, strength)
        ledger = choice_file.Ledger.read(run.folder / choice_file.NAME)
        ledger.picked["exported"] = True
        run.write(choice_file.NAME, ledger.to_json())
    return written
