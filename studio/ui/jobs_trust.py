"""Whether a config may become a run: nothing secret in it, no folder of somebody else's, no code of a stranger's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from studio.config import RunConfig
    from studio.ui.place import Place


def checked(config: RunConfig, place: Place | None = None) -> RunConfig:
    """The config as `studio train` would resolve it. place: whose it is, where its words are not trusted.

    Raises UsageError, and DataError for pictures that are not there.
    """
    from studio import start, subjects
    from studio.config import check_paths
    from studio.train import trusted

    if place is not None:
        place.may_train()
        for term in terms(config):
            refuse_code(term, place)
    check_paths(Path("the settings"), config, lambda flag: "")
    config = subjects.resolve(config)
    if place is not None:  # before a file of them is opened
        for name, path in places(config):
            place.permitted(path, name)
    config = trusted(start.resolve(config))
    config.settings.data.listing()
    return config


def places(config: RunConfig) -> Iterator[tuple[str, Path]]:
    """(setting, path) of everything on this machine that a config names."""
    from studio.config import paths
    from studio.pipelines.drawing import EMBEDDED

    for key in paths(type(config.settings)):
        value = reduce(getattr, key.split("."), config.settings)
        if value is not None and str(value) != EMBEDDED:
            yield key, Path(str(value))
    if Path(config.model).exists():
        yield "model", Path(config.model)


def terms(config: RunConfig) -> Iterator[str]:
    """All terms that a run by rewards would build: what it learns from, and its guard's judges."""
    for part in ("reward", "guard"):
        yield from getattr(getattr(config.settings, part, None), "terms", ())


def refuse_code(term: str, place: Place) -> None:
    """Raises UsageError for a term of a reward that runs a Python function or asks another server, where none may."""
    from studio.pipelines.confine import trusts_code
    from studio.pipelines.rewards_terms import parse

    if parse(term).kind == "scorer":
        return
    if place.space:
        raise UsageError(f"reward term '{term}': on a Space only the studio's own scorers; run it at home for others")
    if not trusts_code():
        raise UsageError(
            f"reward term '{term}': a page imports no code and sends no pictures away, unless you say so: start it "
            "with `studio ui --allow-code`, or use a scorer"
        )
