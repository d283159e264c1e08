"""What a trained run ends with: the exported files, the proof that they load, the grid, the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torchvision.transforms.functional import to_pil_image

from studio import export, pictures, previews, scores, subjects
from studio.pipelines import licence
from studio.pipelines.adapters import files, writing
from studio.pipelines.errors import StudioError
from studio.session import Session

SCORE_SEEDS = 2


def finish(session: Session, made: list[Image]) -> None:
    """Export, draw the grid, check the file in a fresh stock pipeline, score. made: the adapter's previews."""
    write(session)
    draw(session, made)
    check(session, made[0])
    try:
        score(session)
    except StudioError as problem:  # the adapter is finished: it only stays unscored
        session.journal("warning", message=f"no scores: {problem}")


def write(session: Session) -> None:
    """The adapter's files."""
    journal, data = session.journal, session.dataset
    journal.enter("export")
    journal.stop.check()
    base = session.config.model
    base = Path(base).name if Path(base).exists() else base  # the file travels: no path of this machine in it
    about = {"trigger": data.trigger, "class_word": data.class_word, "base_model": base}
    about |= {"base_licence": licence.words(licence.stated(session.config.model))}
    about |= {"studio.config": settings(session.basis.config), "studio.memory": remembered(session.memory)}
    about |= {"studio.data": session.basis.data, "studio.base": session.basis.model}
    about |= session.config.settings.previews.drawing.header
    about |= session.chooser.header() if session.chooser else {}
    about = {key: text for key, text in about.items() if text}
    for path in journal.patiently(lambda: files.exports(session.model, session.adapter, session.run.folder, about)):
        journal("message", message=f"wrote {path.name}, {path.stat().st_size / 2**20:.1f} MiB{lossy(path)}")


def lossy(path: Path) -> str:
    """How much of the change a file for other tools keeps, where it cannot keep all of it."""
    header = files.header(path) if path.suffix == ".safetensors" else {}
    kept = json.loads(header.get("studio.svd_energy", "{}"))
    return f": the nearest LoRA, with {kept['all']:.0%} of the change" if "all" in kept else ""


def settings(config: Mapping[str, Any]) -> str:
    """What a run was made with, as JSON; without the places of this machine, and without prompts."""
    told = {key: value for key, value in config.items() if not key.endswith(("folder", "model", "prompts"))}
    return json.dumps(told, sort_keys=True, default=str)


def remembered(memory: Mapping[str, Any]) -> str:
    """The numbers that a trainer found and keeps, such as DCO's beta, as JSON; "" where there are none."""
    told = {name: value for name, value in memory.items() if isinstance(value, int | float | str)}
    return json.dumps(told, sort_keys=True) if told else ""


def draw(session: Session, made: list[Image]) -> None:
    """The grid: base model and adapter side by side, between them what the run went on from."""
    references = [to_pil_image(subjects.read(example.path)) for example in session.dataset.examples[:6]]
    base, adapter = previews.heads(session.config.settings.previews)
    columns = {base: session.base, **({"start": session.begun} if session.begun else {}), adapter: made}
    sheet = pictures.grid(columns, [shot.caption for shot in session.shots], references)
    pictures.save(sheet, session.run.folder / "grid.png", run=session.run.name)
    session.journal("preview", path="grid.png", message=" | ".join(columns))


def check(session: Session, expected: Image) -> None:
    """The exported file draws the same picture in a pipeline that knows nothing of the run.

    Where other tools cannot do all that the adapter does, it is compared as they see it.
    """
    journal, config = session.journal, session.config
    journal.enter("check")
    journal.stop.check()
    file = session.run.folder / export.NAME
    if config.settings.quantize != "no":  # a fresh model is not quantised, and draws with other weights
        journal("warning", message=f"{file.name} was not compared: the run's base model is quantised")
        return
    shot, settings = session.shots[0], previews.stock(config.settings.previews, session.model.prediction == "flow")
    limited: Any = getattr(session.adapter, "as_stock", None) if export.stock(session.model) else None
    if limited or settings is not config.settings.previews:
        with limited() if limited else nullcontext():
            expected = next(iter(previews.take(session.model, [shot], settings)))
    seen = export.check(config.model, session.model, file, shot, settings, expected)
    far = f"mean difference {seen.difference:.2f} of 255 (tolerance {seen.tolerance:g})"
    journal("message", message=f"{file.name} in a fresh {seen.by}: {far}")


def score(session: Session) -> None:
    """On a subject that came with the studio: similarity and prompt accuracy beside the base model's."""
    if session.config.settings.choice.score == "never":
        return
    data, dataset, journal = session.config.settings.data, session.dataset, session.journal
    subject = subjects.about(data.folder)
    if subject.get("kind") != "subject" or session.config.model != "embedded" or data.folder is None:
        return
    words = (dataset.trigger, dataset.class_word)
    drawing = session.config.settings.previews.drawing
    comparison = scores.Comparison(session.model, data.folder.parent, *words, SCORE_SEEDS, drawing)
    session.count("check", comparison.run())
    found = comparison.table()
    scores.write(found, session.run.folder / "scores.json")
    short = {name: {"value": score["value"], "base": score["base"]} for name, score in found.items()}
    writing.annotate(session.run.folder / files.NAME, {"scores": json.dumps(short, sort_keys=True)})
    for name, score in found.items():
        journal("message", message=f"{name}: {score['value']:.3f} (base {score['base']:.3f})")
