"""Settings kept under a name: one TOML file each in RUNS/.presets, which `studio train FILE` reads as well."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from studio.pipelines.confine import inside
from studio.pipelines.errors import DiskError, UsageError, is_full
from studio.registry import nearest
from studio.ui import draft as drafts
from studio.ui.draft import Draft
from studio.ui.form import TOP, nested
from studio.ui.place import Place

FOLDER = ".presets"
NAME = re.compile(r"[\w][\w .+-]{0,59}")
OWN = ("run", "data.folder")  # of one run, not of a preset


def names(place: Place) -> list[str]:
    """The presets there are, sorted."""
    return sorted((path.stem for path in (place.runs / FOLDER).glob("*.toml")), key=str.lower)


def file(place: Place, name: str) -> Path:
    """Where a preset of this name lies. Raises UsageError for what is no name."""
    name = name.strip()
    if not NAME.fullmatch(name) or name.endswith((".", " ")):
        raise UsageError(f"'{name[:80]}' is no name for a preset: up to 60 letters, digits, spaces, '.', '+', '-', '_'")
    return inside(place.runs / FOLDER, f"{name}.toml", where="preset")


def there(place: Place, name: str) -> Path:
    """The file of a preset. Raises UsageError where there is none of this name."""
    path = file(place, name)
    if not path.is_file():
        raise UsageError(f"there is no preset '{name}'{nearest(name, names(place))}")
    return path


def toml(draft: Draft) -> str:
    """A draft as a TOML config: what differs from the defaults, without the run's name and its pictures."""
    values = {name: "none" if one is None else one for name, one in draft["changed"].items() if name not in OWN}
    top = {name: values.pop(name) for name in TOP if name in values}
    table = {draft["trainer"]: nested(values)} if values else {}
    return tomlkit.dumps({"trainer": draft["trainer"], **top, **table})


def save(place: Place, name: str, draft: Draft) -> Path:
    """Keep a draft under a name, in the place of one of the same name. Raises UsageError, DiskError."""
    place.may_write("saving a preset")
    drafts.config(draft, place)  # one that cannot run is not kept
    path = file(place, name)
    aside = path.with_name(f".{os.getpid()}-{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(toml(draft), "utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if is_full(error):
            raise DiskError(f"the preset '{name}' was not saved: the disk is full; make room and save again") from error
        raise UsageError(f"the preset '{name}' cannot be written: {error.strerror or error}") from error
    return path


def load(place: Place, name: str, now: Draft | None = None) -> Draft:
    """The draft kept under a name; now: the one whose pictures and run name stay. Raises UsageError."""
    return read(there(place, name), name, place, now)


def read(path: Path, name: str, place: Place, now: Draft | None = None, whole: bool = False) -> Draft:
    """The draft of a TOML config, a preset or a run's; name: what to call it in messages. Raises UsageError.

    now: the draft whose pictures and run name stay; whole: those of the config, where it has some, come before them.
    """
    from studio.config import layer, make

    try:
        values = {key: value for key, value in layer(path).items() if key != "runs"}
    except UsageError as error:
        raise UsageError(str(error).replace(str(path), name)) from None
    found = drafts.of_config(make(toml=values, file=name))
    own = {key: value for key, value in changed(now).items() if key in OWN}
    given = {key: value for key, value in found["changed"].items() if whole or key not in OWN}
    found["changed"] = {**given, **own, **(given if whole else {})}
    found["view"] = now["view"] if now else found["view"]
    drafts.config(found, place)  # it may be a stranger's: paths outside of the visitor's folders are refused
    return found


def changed(draft: Draft | None) -> Mapping[str, Any]:
    """What a draft changes."""
    return draft["changed"] if draft else {}


def delete(place: Place, name: str) -> None:
    """Forget a preset. Raises UsageError where there is none."""
    place.may_write("deleting a preset")
    there(place, name).unlink()
