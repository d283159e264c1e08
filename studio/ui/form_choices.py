"""What may be suggested for a setting that is free text: the names that exist, read where they are defined."""

from __future__ import annotations

import json
from functools import lru_cache

from studio.ui.form import Field

TARGETS = ("attention", "ff", "attention+ff", "conv", "all")
ATTENTION = ("auto", "sdpa", "matmul", "chunked", "xformers")


def suggestions(field: Field) -> tuple[str, ...]:
    """Names to choose from beside own words; () where there is nothing to suggest."""
    last = field.name.rpartition(".")[2]
    if field.name in ("reward.terms", "guard.terms"):
        return rewards()
    if field.name == "model":
        return ("embedded", "toy")
    if last == "targets":
        return TARGETS
    if field.name == "attention":
        return ATTENTION
    if field.kind != "text" or last not in ("optimizer", "schedule", "sampler"):
        return ()
    return named(last)


@lru_cache(maxsize=8)
def named(what: str) -> tuple[str, ...]:
    """Optimizers, schedules, samplers."""
    if what == "sampler":
        from studio.pipelines.drawing import SAMPLERS

        return tuple(SAMPLERS)
    from studio.optimizers import OPTIMIZERS, SCHEDULES

    return tuple(OPTIMIZERS) if what == "optimizer" else tuple(SCHEDULES)


@lru_cache(maxsize=1)
def rewards() -> tuple[str, ...]:
    """Every number that a scorer can give, as rewards name it; nothing is imported."""
    from studio import registry

    usable = [entry for entry in registry.describe("scorers") if not entry.error]
    return tuple(sorted({name for entry in usable for name in entry.numbers or [entry.name]}))


@lru_cache(maxsize=1)
def subjects() -> tuple[tuple[str, str], ...]:
    """(what to call it, `subject:NAME`) of the subjects and styles that come with the studio."""
    from studio.pipelines.assets import assets_folder
    from studio.pipelines.errors import UsageError

    rows = []
    for path in sorted((assets_folder() / "subjects").glob("*/subject.json")):
        try:
            kind = json.loads(path.read_text("utf-8")).get("kind", "subject")
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is damaged ({error}): install the studio again") from None
        name = path.parent.name
        rows.append((f"{name.removeprefix('style-')} ({kind})", f"subject:{name}"))
    return tuple(rows)
