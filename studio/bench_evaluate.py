"""How long `studio evaluate` takes, and how long one picture at a time would: `python -m studio.bench evaluate`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from studio.evaluate import Request, evaluate
from studio.evaluation import scoring, sets
from studio.evaluation.gallery import Gallery, How
from studio.evaluation.panel import panel
from studio.evaluation.records import Evaluation, Source
from studio.evaluation.references import Material, gather
from studio.evaluation.traits import Traits
from studio.events import Event
from studio.pipelines import attention, backbone
from studio.pipelines.adapters import files, lora
from studio.pipelines.assets import assets_folder
from studio.precision import preferred

SUBJECT, SHARE = "fox", 12  # of the pictures, one by one: the rest would take as long each
WORDS = {"trigger": "sks", "class_word": "fox"}


def run(model: str, out: Path, console: Console) -> None:
    """One adapter beside its base model, all sets with four seeds: seconds, and the ratio to a per-picture loop."""
    place = out / "evaluate"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    file, near = adapter(model, place), assets_folder() / "subjects" / SUBJECT
    seen: list[Event] = []
    began = time.perf_counter()
    request = Request(out=place, references=near / "reference", data=near / "train")
    found = evaluate([str(file)], request, seen.append)
    whole = time.perf_counter() - began
    pictures = len(found.pictures)
    console.print(f"{model}: {pictures} pictures and {len(found.scores)} numbers in {whole:.1f} s; {phases(seen)}")
    each = one_by_one(model, file, found, gather(near / "reference", near / "train", model == "embedded"))
    alone = each * pictures
    console.print(f"one at a time: {each:.3f} s a picture, {alone:.1f} s for all: {alone / whole:.1f} times as long")


def adapter(model: str, place: Path) -> Path:
    """An adapter file with weights that change what is drawn."""
    loaded = backbone.load(model)
    fresh = lora.Config(rank=16, targets="all").build(loaded)
    torch.manual_seed(0)
    for parameter in fresh.parameters():
        parameter.data.normal_(0, 0.01)
    return files.save(loaded, fresh, place / "fresh.safetensors", {**WORDS, "base_model": model})


def phases(seen: Sequence[Event]) -> str:
    """Seconds of each phase."""
    starts: dict[str, float] = {}
    for event in seen:
        starts.setdefault(event.phase, event.time)
    ends = [*list(starts.values())[1:], seen[-1].time]
    return ", ".join(f"{name} {end - start:.1f} s" for (name, start), end in zip(starts.items(), ends, strict=True))


def one_by_one(model: str, file: Path, found: Evaluation, material: Material) -> float:
    """Seconds per picture when each is drawn and scored alone."""
    device, dtype = preferred()
    loaded = backbone.load(model, device, dtype)
    attention.install(loaded.net, "auto")
    files.load(loaded, file)
    judges = panel([], model, device, dtype)
    source = Source("alone", model, file.name, 1.0, 0, *WORDS.values())
    how = How(int(found.settings["steps"]), float(found.settings["guidance_scale"]), batch=1)
    groups = sets.shipped(model, sets.kind_of(WORDS["class_word"]))
    wanted = sets.wanted(groups, sets.seeds(1), *WORDS.values())[:SHARE]
    traits = Traits(judges, material)

    def alone(number: int) -> None:
        gallery = Gallery(loaded, source, [wanted[number]], how)
        for _ in gallery.run():
            pass
        drawn = gallery.result()
        for scorer in judges.scorers:
            list(scoring.columns(scorer, drawn, material, None))
        traits.columns(drawn, None)

    alone(0)  # weights are read, references seen
    began = time.perf_counter()
    for number in range(1, len(wanted)):
        alone(number)
    return (time.perf_counter() - began) / (len(wanted) - 1)
