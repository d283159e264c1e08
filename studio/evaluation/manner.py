"""How each source of an evaluation is drawn, and what is said where that is not the same for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from studio.evaluation.gallery import How
from studio.evaluation.request import Request
from studio.evaluation.targets import Target
from studio.pipelines import drawing
from studio.pipelines.adapters import files


def of(groups: Sequence[Sequence[Target]], request: Request) -> tuple[dict[str, How], list[str]]:
    """Each source's by its label, and notes. groups: a base model first, then its adapters.

    Raises ModelError for a file whose header asks for what cannot be.
    """
    hows: dict[str, How] = {}
    notes = []
    for base, *adapters in groups:
        for one in adapters:
            own = drawing.read(files.header(one.file), one.file)
            hows[one.source.label] = how = request.how(one.source.model, own)
            notes.append(drawing.differing(one.source.label, own, how.drawing))
        beside = [hows[one.source.label] for one in adapters]
        hows[base.source.label] = request.of_base(base.source.model, beside)
    if different(hows):
        said = "; ".join(f"{label}: {how.drawing.said()}" for label, how in hows.items())
        notes.append(f"not all are drawn in the same way, each is as it wants to be: {said}")
    return hows, [note for note in notes if note]


def different(hows: Mapping[str, How]) -> dict[str, dict[str, Any]]:
    """Sampler, steps and guidance by label, where they differ; else {}."""
    found = {label: asdict(how.drawing) for label, how in hows.items()}
    return found if len({how.drawing for how in hows.values()}) > 1 else {}
